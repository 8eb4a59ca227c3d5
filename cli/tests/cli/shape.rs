//! The pure files stay pure.

use std::{fs, path::Path};

#[test]
fn what_decides_touches_nothing() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "backup.rs",
        "command.rs",
        "delta.rs",
        "hidden.rs",
        "describe.rs",
        "item.rs",
        "difference.rs",
        "lint.rs",
        "manifest.rs",
        "manifests.rs",
        "renewal.rs",
        "sight.rs",
        "spelling.rs",
        "surgery/mod.rs",
        "surgery/scalar.rs",
        "surgery/splice.rs",
        "surgery/tree.rs",
        "table.rs",
        "verdict.rs",
        "view.rs",
    ] {
        let text = fs::read_to_string(source.join(file)).unwrap();
        for word in ["async ", ".await", "kube::Client", "tokio::", "std::fs", "std::env", "::now()"] {
            assert!(!text.contains(word), "{file} says {word:?}");
        }
    }
}

#[test]
fn one_module_talks_to_the_api_server() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("cluster.rs") && !path.ends_with("cluster/kubeconfig.rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("Client::try_from") && !text.contains("Kubeconfig::"), "{}", path.display());
            }
        }
    }
}
