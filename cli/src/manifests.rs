//! What `seal install` installs: the renderings of our own chart, as `deploy/` has them, of this very version. A pure
//! change of text, so that the comments, which give a reason for each right, are there for whoever reads it.

const DEFINITIONS: &str = include_str!("../../crds/crds.yaml");
const ALL: &str = include_str!("../../deploy/install.yaml");
const SEALING: &str = include_str!("../../deploy/sealing/install.yaml");
const LISTED: &str = include_str!("../../deploy/namespaced/install.yaml");
const SELECTED: &str = include_str!("../../deploy/selected/install.yaml");

/// Where the renderings put it, and what they watch.
pub const NAMESPACE: &str = "kube-system";
const IMAGE: &str = concat!("image: signet-controller:", env!("CARGO_PKG_VERSION"));
const LABEL: &str = "--namespace-selector=signet.dev/unseal=true";
const NO_NAMESPACES: &str = "- \"--all-namespaces=false\"\n";

/// What the controller looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// SealedSecrets and GitSyncs.
    All,
    /// SealedSecrets.
    Sealing,
    /// Those of these namespaces and its own.
    Listed(Vec<String>),
    /// Those of namespaces with a label.
    Selected(String),
}

/// Every manifest, in the order in which they are applied. What is put in has been found to be names.
pub fn manifests(watch: &Watch, namespace: &str, image: Option<&str>) -> String {
    let moved =
        |rendering: &str| rendering.replace(&format!("namespace: {NAMESPACE}\n"), &format!("namespace: {namespace}\n"));
    let mut text = match watch {
        Watch::All => moved(ALL),
        Watch::Sealing => moved(SEALING),
        Watch::Selected(selector) => moved(SELECTED).replace(LABEL, &format!("--namespace-selector={selector}")),
        Watch::Listed(namespaces) => listed(&moved(LISTED), namespace, namespaces),
    };
    if let Some(image) = image {
        text = text.replace(IMAGE, &format!("image: {image}"));
    }
    format!("{DEFINITIONS}{text}")
}

/// With the rights in each of the namespaces beside its own, which has them, and their list for the controller.
fn listed(text: &str, home: &str, namespaces: &[String]) -> String {
    let mut others: Vec<&str> = Vec::new();
    for name in namespaces {
        if name != home && !others.contains(&name.as_str()) {
            others.push(name);
        }
    }
    if others.is_empty() {
        return text.to_owned();
    }
    let own =
        |part: &&str| part.contains("\nkind: RoleBinding\n") && part.contains("\n  name: sealed-secrets-unsealer\n");
    let binding = text.split_inclusive("\n---\n").find(own).unwrap_or_default();
    let bindings = others.iter().map(|name| {
        let place = format!("  namespace: {name}\n  labels:");
        binding.replacen(&format!("  namespace: {home}\n  labels:"), &place, 1)
    });
    let list = others.join(",");
    let flags = format!("{NO_NAMESPACES}            - \"--additional-namespaces={list}\"\n");
    let bindings: String = bindings.collect();
    let with_bindings = text.replacen(binding, &format!("{binding}{bindings}"), usize::from(!binding.is_empty()));
    with_bindings.replace(NO_NAMESPACES, &flags)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn objects(text: &str) -> Vec<Value> {
        crds::yaml::documents(text).into_iter().map(|document| document.value.unwrap()).collect()
    }

    fn controller(objects: &[Value]) -> Value {
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0].clone()
    }

    #[test]
    fn out_of_the_box_it_is_what_deploy_has() {
        let text = manifests(&Watch::All, NAMESPACE, None);
        assert_eq!(text, format!("{DEFINITIONS}{ALL}"));
        assert!(controller(&objects(&text))["args"].is_null());
    }

    #[test]
    fn everything_moves_to_the_namespace() {
        let watches =
            [Watch::All, Watch::Sealing, Watch::Listed(vec!["shop".to_owned()]), Watch::Selected("a".to_owned())];
        for watch in watches {
            let moved = manifests(&watch, "elsewhere", None);
            assert!(!moved.contains(NAMESPACE), "{watch:?}");
            assert_eq!(objects(&moved).len(), objects(&manifests(&watch, NAMESPACE, None)).len());
        }
    }

    #[test]
    fn listed_namespaces_are_watched_with_rights_in_each() {
        let all = objects(&manifests(&Watch::Listed(vec!["shop".to_owned(), "pay".to_owned()]), NAMESPACE, None));
        let bound =
            |object: &&Value| object["kind"] == "RoleBinding" && object["roleRef"]["name"] == "sealed-secrets-unsealer";
        let bindings: Vec<_> = all.iter().filter(bound).collect();
        let places: Vec<_> =
            bindings.iter().map(|binding| binding["metadata"]["namespace"].as_str().unwrap()).collect();
        assert_eq!(places, [NAMESPACE, "shop", "pay"]);
        assert!(bindings.iter().all(|binding| binding["subjects"][0]["namespace"] == NAMESPACE));
        let args = &controller(&all)["args"];
        assert_eq!(*args, serde_json::json!(["--all-namespaces=false", "--additional-namespaces=shop,pay"]));
    }

    #[test]
    fn each_listed_namespace_has_its_rights_once_wherever_the_controller_is() {
        let listed = |own: &str, namespaces: &[&str]| {
            let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
            let all = objects(&manifests(&Watch::Listed(namespaces), own, None));
            let id = |object: &Value| {
                let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
                [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]].map(text)
            };
            let mut ids: Vec<_> = all.iter().map(id).collect();
            ids.sort();
            assert!(ids.windows(2).all(|two| two[0] != two[1]), "{ids:?}");
            let bound = |[kind, _, name]: &&[String; 3]| kind == "RoleBinding" && name == "sealed-secrets-unsealer";
            let places: Vec<_> = ids.iter().filter(bound).map(|[_, place, _]| place.clone()).collect();
            (places.join(" "), controller(&all)["args"].to_string())
        };
        let args = |list: &str| format!(r#"["--all-namespaces=false","--additional-namespaces={list}"]"#);
        let (places, told) = listed("sealing", &["kube-system", "shop"]);
        assert_eq!((places.as_str(), told), ("kube-system sealing shop", args("kube-system,shop")));
        let (places, told) = listed("sealing", &["shop", "sealing", "shop"]);
        assert_eq!((places.as_str(), told), ("sealing shop", args("shop")));
        let (places, told) = listed(NAMESPACE, &[NAMESPACE]);
        assert_eq!((places.as_str(), told.as_str()), (NAMESPACE, r#"["--all-namespaces=false"]"#));
    }

    #[test]
    fn label_and_image_are_put_in() {
        let text = manifests(&Watch::Selected("team in (a,b)".to_owned()), NAMESPACE, Some("r.example.com/s@sha256:0"));
        let controller = controller(&objects(&text));
        assert_eq!(controller["args"], serde_json::json!(["--namespace-selector=team in (a,b)"]));
        assert_eq!(controller["image"], "r.example.com/s@sha256:0");
    }
}
