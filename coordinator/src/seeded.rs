//! Bugs put back on purpose, one at a time, to show that the simulation catches them. Compiled only with the feature `seeded-bugs`;
//! otherwise `on` is a constant `false` that the compiler removes. The numbers are those of the table in `docs/evidence.md`;
//! those from 80 on are bugs of the shell. 60 (a join of "poison" breaks an invariant) and 61 (one of its records does not fit) are for the tests of what a drain does then;
//! 62 to 68, and 178 to 252 of the core, were put in by hand, to see what the nets find that were not made for it;
//! 255 stands where a mutant was noticed by nothing.

#[cfg(feature = "seeded-bugs")]
mod switch {
    use std::cell::Cell;
    thread_local! {
        static BUG: Cell<u8> = const { Cell::new(0) };
        static REACHED: Cell<u64> = const { Cell::new(0) };
    }
    /// Switches bug `n` on for this thread (0: none) and forgets how often one was reached.
    pub fn set(n: u8) {
        BUG.set(n);
        REACHED.set(0);
    }
    /// Whether bug `n` is on; counts that its branch was reached.
    pub fn on(n: u8) -> bool {
        let hit = BUG.get() == n;
        if hit {
            REACHED.set(REACHED.get() + 1);
        }
        hit
    }
    /// How often the branch of the bug that is on was reached.
    pub fn reached() -> u64 { REACHED.get() }
}
#[cfg(feature = "seeded-bugs")]
pub use switch::{on, reached, set};

/// No bug is ever on in a build without the feature.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn on(_: u8) -> bool { false }
