//! The bytes of the log. A segment is a file of fixed length: sector 0 is its header, then frames, and its last sector is the seal.
//!
//! Every 512-byte sector carries 500 bytes, the number of its frame (u64) and a crc32c seeded with the sector's place. So each sector by
//! itself is *zero*, *valid in frame n* or *damaged*, and a misdirected write cannot pass. That is what tells a torn write from damage.

pub const SECTOR: usize = 512;
pub const PAYLOAD: usize = SECTOR - 12;
/// A frame is at most so long, bytes on disk.
pub const FRAME_MAX: usize = 1 << 20;
/// The frame number of a seal: the last sector of a full segment says that the next segment exists.
pub const SEAL: u64 = u64::MAX;
const MAGIC: &[u8; 8] = b"batonlog";
const VERSION: u16 = 1;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Sector {
    Zero,
    Frame(u64),
    Damaged,
}

fn checksum(segment: u64, sector: u64, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &sector.to_le_bytes());
    crc32c::crc32c_append(place, bytes)
}

/// Wraps `body` into sectors from `first_sector` on.
pub fn wrap(segment: u64, first_sector: u64, frame: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len().div_ceil(PAYLOAD) * SECTOR);
    for (i, chunk) in body.chunks(PAYLOAD).enumerate() {
        let start = out.len();
        out.extend_from_slice(chunk);
        out.resize(start + PAYLOAD, 0);
        out.extend_from_slice(&frame.to_le_bytes());
        let sum = checksum(segment, first_sector + i as u64, &out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    out
}

/// What one sector is.
pub fn classify(segment: u64, sector: u64, bytes: &[u8]) -> Sector {
    if bytes.iter().all(|b| *b == 0) {
        return Sector::Zero;
    }
    let (content, sum) = bytes.split_at(SECTOR - 4);
    if checksum(segment, sector, content).to_le_bytes() != sum {
        return Sector::Damaged;
    }
    let mut number = [0; 8];
    number.copy_from_slice(&content[PAYLOAD..]);
    Sector::Frame(u64::from_le_bytes(number))
}

/// The payload of whole sectors.
pub fn unwrap(sectors: &[u8]) -> Vec<u8> { sectors.chunks(SECTOR).flat_map(|s| s[..PAYLOAD].iter().copied()).collect() }

/// The content of a segment's header.
pub fn header(segment: u64, length: u64, ident: &[u8; 24]) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &segment.to_le_bytes(), &length.to_le_bytes(), ident].concat()
}

pub fn segment_name(n: u64) -> String { format!("{n:016x}.wal") }
