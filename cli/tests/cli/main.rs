//! `seal` as a user meets it: golden cases under `cmd/`, and what it writes opened with the key it was sealed for.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod memory;
mod opens;
mod overlays;
mod recover;
mod reseal;
mod shape;
mod stub;
mod subcommands;
mod sync;
mod verbs;

use std::{fs, os::unix::fs::symlink, path::Path};

#[test]
fn golden_cases() {
    let kubeseal = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubeseal");
    // A link: a copy could not be run while another test, just starting its own program, still holds it open.
    let _ = fs::remove_file(&kubeseal);
    symlink(env!("CARGO_BIN_EXE_seal"), &kubeseal).unwrap();
    trycmd::TestCases::new()
        .env("HOME", "/nonexistent") // never the developer's cluster
        .env("KUBECONFIG", "/dev/null")
        .env("NO_PROXY", "*")
        .register_bin("kubeseal", kubeseal)
        .case("tests/cmd/*.toml");
}
