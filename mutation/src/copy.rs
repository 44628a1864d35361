//! The copy of the workspace in which the mutants live. A file is written only where it differs, so that a second build is a short one.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Copies what git would: everything but build output and the mutants themselves. `keep`: a folder of the copy that is left as it is (the mutated sources).
pub fn workspace(from: &Path, to: &Path, keep: Option<&Path>) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        let (name, source) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        if keep.is_some_and(|k| k == target) || ["target", ".git", "mutation"].iter().any(|n| name == *n) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            workspace(&source, &target, keep)?;
        } else {
            write(&target, &fs::read(&source)?)?;
        }
    }
    Ok(())
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}
