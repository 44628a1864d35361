//! The only source of chance: one seed, one story (splitmix64).

/// A deterministic generator.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// 0 to n - 1; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 { if n == 0 { 0 } else { self.bits() % n } }
    /// lo to hi, both included.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 { lo + self.below(hi - lo + 1) }
    /// True n times in a million.
    pub fn ppm(&mut self, n: u64) -> bool { self.below(1_000_000) < n }
    /// True n times in a hundred.
    pub fn pct(&mut self, n: u64) -> bool { self.below(100) < n }
    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> { of.get(self.below(of.len() as u64) as usize) }
}
