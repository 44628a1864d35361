//! Reads big-endian numbers, strings and arrays off untrusted bytes.

use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {what} is malformed at byte {at}: {field} {why}")]
pub struct Malformed {
    pub what: &'static str,
    pub field: &'static str,
    pub at: usize,
    pub why: &'static str,
}

pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}
impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self { Self { what, bytes, at: 0 } }

    pub(super) fn refuse(&self, field: &'static str, why: &'static str) -> Malformed { Malformed { what: self.what, field, at: self.at, why } }

    fn take(&mut self, field: &'static str, n: usize) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| self.refuse(field, "breaks off"))?;
        self.at += n;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    pub(super) fn i16(&mut self, field: &'static str) -> Result<i16, Malformed> { self.fixed(field).map(i16::from_be_bytes) }
    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, Malformed> { self.fixed(field).map(i32::from_be_bytes) }

    /// A negative length stands for null.
    pub(super) fn nullable_string(&mut self, field: &'static str) -> Result<Option<String>, Malformed> {
        let Ok(length) = usize::try_from(self.i16(field)?) else { return Ok(None) };
        let bytes = self.take(field, length)?;
        std::str::from_utf8(bytes).map(|s| Some(s.to_owned())).map_err(|_| self.refuse(field, "is not UTF-8"))
    }

    pub(super) fn string(&mut self, field: &'static str) -> Result<String, Malformed> {
        self.nullable_string(field)?.ok_or_else(|| self.refuse(field, "must not be null"))
    }

    /// A negative length stands for null.
    pub(super) fn bytes(&mut self, field: &'static str) -> Result<Option<Vec<u8>>, Malformed> {
        let Ok(length) = usize::try_from(self.i32(field)?) else { return Ok(None) };
        self.take(field, length).map(|b| Some(b.to_vec()))
    }

    /// `item_bytes` is the least that one item takes: a count that the rest cannot hold is refused before anything is reserved for it.
    pub(super) fn array<T>(&mut self, field: &'static str, item_bytes: usize, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = usize::try_from(self.i32(field)?).map_err(|_| self.refuse(field, "must not be null"))?;
        if count > (self.bytes.len() - self.at) / item_bytes {
            return Err(self.refuse(field, "announces more items than there are bytes"));
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}
