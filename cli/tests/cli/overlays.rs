//! Repositories for several clusters, run as a program in a folder of its own.

use std::fs;

use crate::subcommands::{Folder, KEYED};

/// Bases get their namespace from kustomize, and the clusters' overlays hold the same SealedSecret.
#[test]
fn a_tree_of_bases_and_overlays_can_be_verified() {
    let folder = Folder::new();
    let (sealed, homeless) =
        (folder.read("sealed.yaml"), folder.read("sealed.yaml").replace("  namespace: shop\n", ""));
    for (name, text) in [("base", &homeless), ("staging", &sealed), ("prod", &sealed)] {
        fs::create_dir_all(folder.path("mono").join(name)).unwrap();
        folder.write(&format!("mono/{name}/db.yaml"), text);
    }
    let verify = |more: &[&str]| {
        let done = folder.run(&[&["verify", "mono"], more].concat(), "", "");
        (done.code, done.stdout)
    };
    let (code, told) = verify(&[]);
    assert!(code == Some(1) && told.lines().count() == 1 && told.ends_with("(namespace)\n"), "{told}");
    assert_eq!(verify(&["--allow", "namespace"]), (Some(0), String::new()));
    assert_eq!(verify(&[&["--allow", "namespace"][..], &KEYED].concat()), (Some(0), String::new()));
    folder.write("mono/prod/again.yaml", &sealed);
    let (code, told) = verify(&["--allow", "namespace"]);
    assert!(code == Some(1) && told.contains("the same SealedSecret stands at mono/prod/again.yaml:1"), "{told}");
    assert_eq!(verify(&["--allow", "namespace,duplicate"]), (Some(0), String::new()));
    folder.write("mono/secret.yaml", &folder.read("secret.yaml"));
    assert_eq!(verify(&["--allow", "namespace,duplicate", "--allow-plain"]), (Some(0), String::new()));
}
