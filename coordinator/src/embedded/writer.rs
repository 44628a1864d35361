//! Writes big-endian numbers, strings and arrays.

use thiserror::Error;

/// A value that the format's lengths cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field} has a length of {length}; the format ends at {max}")]
pub struct TooLong {
    pub field: &'static str,
    pub length: usize,
    pub max: usize,
}

#[derive(Default)]
pub(super) struct Writer(Vec<u8>);
impl Writer {
    pub(super) fn done(self) -> Vec<u8> { self.0 }

    pub(super) fn i16(&mut self, n: i16) { self.0.extend(n.to_be_bytes()); }
    pub(super) fn i32(&mut self, n: i32) { self.0.extend(n.to_be_bytes()); }

    pub(super) fn string(&mut self, field: &'static str, s: &str) -> Result<(), TooLong> {
        self.i16(i16::try_from(s.len()).map_err(|_| TooLong { field, length: s.len(), max: i16::MAX as usize })?);
        self.0.extend(s.as_bytes());
        Ok(())
    }

    pub(super) fn nullable_string(&mut self, field: &'static str, s: Option<&str>) -> Result<(), TooLong> {
        match s {
            Some(s) => self.string(field, s),
            None => {
                self.i16(-1);
                Ok(())
            }
        }
    }

    pub(super) fn bytes(&mut self, field: &'static str, bytes: Option<&[u8]>) -> Result<(), TooLong> {
        match bytes {
            Some(b) => {
                self.length(field, b.len())?;
                self.0.extend(b);
            }
            None => self.i32(-1),
        }
        Ok(())
    }

    pub(super) fn array<T>(&mut self, field: &'static str, items: &[T], mut item: impl FnMut(&mut Self, &T) -> Result<(), TooLong>) -> Result<(), TooLong> {
        self.length(field, items.len())?;
        items.iter().try_for_each(|i| item(self, i))
    }

    fn length(&mut self, field: &'static str, length: usize) -> Result<(), TooLong> {
        self.i32(i32::try_from(length).map_err(|_| TooLong { field, length, max: i32::MAX as usize })?);
        Ok(())
    }
}
