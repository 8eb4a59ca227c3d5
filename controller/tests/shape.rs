//! The shape of the house: what decides does no I/O, and the two halves do not reach into each other.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::{fs, path::Path};

/// Files that decide. They take what they need as arguments, time included.
const PURE: &[&str] = &[
    "backoff.rs",
    "exit.rs",
    "fight.rs",
    "health.rs",
    "kept.rs",
    "metrics/book.rs",
    "metrics/exposition.rs",
    "metrics/git_syncs.rs",
    "lead/lease.rs",
    "observed.rs",
    "skew/fields.rs",
    "sync/asks.rs",
    "sync/claims.rs",
    "sync/audit.rs",
    "sync/depends.rs",
    "sync/drift.rs",
    "sync/expressions.rs",
    "sync/expressions/bounds.rs",
    "sync/fetch/hook.rs",
    "sync/fetch/verify.rs",
    "sync/fetch/verify/openpgp.rs",
    "sync/fetch/verify/sshsig.rs",
    "sync/fight.rs",
    "sync/hooks.rs",
    "sync/inputs.rs",
    "sync/kubeconfig.rs",
    "sync/letter.rs",
    "sync/memory.rs",
    "sync/notify.rs",
    "sync/output.rs",
    "sync/plan.rs",
    "sync/rollback.rs",
    "sync/sealed.rs",
    "sync/shares.rs",
    "sync/source/credentials.rs",
    "sync/source/range.rs",
    "sync/ssh/known_hosts.rs",
    "sync/status.rs",
    "unseal/adopt.rs",
    "unseal/choices.rs",
    "unseal/decide.rs",
    "unseal/rest.rs",
    "unseal/status.rs",
    "args.rs",
    "args/lead.rs",
    "args/values.rs",
];

/// What reaches out of a pure file.
const IMPURE: [&str; 10] =
    ["async ", ".await", "Client", "tokio::", "gix::", "std::fs", "std::net", "::now()", "rand::rng", "std::env"];

fn product_code(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_decides_does_no_io() {
    for file in PURE {
        let code = product_code(file);
        for word in IMPURE {
            assert!(!code.contains(word), "{file} must stay pure, but holds {word:?}");
        }
    }
}

#[test]
fn unsealing_and_syncing_do_not_know_each_other() {
    for (folder, other) in
        [("keys", "crate::unseal"), ("keys", "crate::sync"), ("unseal", "crate::sync"), ("sync", "crate::unseal")]
    {
        let folder_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
        for file in fs::read_dir(folder_path).unwrap().filter_map(Result::ok).filter(|file| file.path().is_file()) {
            let name = format!("{folder}/{}", file.file_name().to_string_lossy());
            assert!(!product_code(&name).contains(other), "{name} must not know {other}");
        }
    }
}
