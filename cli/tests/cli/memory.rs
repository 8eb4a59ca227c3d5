//! The program keeps its memory to itself, before it reads anything.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

#[cfg(target_os = "linux")]
#[test]
fn there_is_no_core_dump() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seal"));
    command.env_clear().args(["verify", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut seal = command.spawn().unwrap();
    // More than a pipe holds: once it is written, the program has begun to read.
    seal.stdin.as_mut().unwrap().write_all(&vec![b'#'; 1 << 20]).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", seal.id())).unwrap();
    drop(seal.stdin.take());
    let _ = seal.wait().unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
}
