//! `spec.images`: other names, tags and digests for container images, by kustomize's rules, whatever rendered the
//! manifests. Pure.

use serde_json::Value;

use crate::git_sync::ImageOverride;

/// Changes the images of all containers in an object.
pub fn change(object: &mut Value, images: &[ImageOverride]) {
    if images.is_empty() || object["kind"] == "CustomResourceDefinition" {
        return;
    }
    walk(object, images);
}

fn walk(value: &mut Value, images: &[ImageOverride]) {
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                if ["containers", "initContainers"].contains(&key.as_str()) {
                    for container in child.as_array_mut().into_iter().flatten() {
                        if let Some(Value::String(image)) = container.get_mut("image") {
                            *image = changed(image, images);
                        }
                    }
                }
                walk(child, images);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, images)),
        _ => {}
    }
}

/// Each override sees what the ones before it made.
fn changed(image: &str, images: &[ImageOverride]) -> String {
    images.iter().fold(image.to_owned(), |image, ImageOverride { name, new_name, new_tag, digest }| {
        let (old, tag, old_digest) = parts(&image);
        if old != name {
            return image;
        }
        let (tag, digest) = match (new_tag, digest) {
            (None, None) => (tag, old_digest),
            (tag, digest) => (tag.as_deref(), digest.as_deref()),
        };
        let mut image = new_name.as_deref().unwrap_or(old).to_owned();
        for (mark, part) in [(':', tag), ('@', digest)] {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                image.push(mark);
                image += part;
            }
        }
        image
    })
}

/// Name, tag and digest. A colon before the last slash is a port's.
fn parts(image: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag), digest),
        None => (rest, None, digest),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(name: &str, new_name: Option<&str>, new_tag: Option<&str>, digest: Option<&str>) -> ImageOverride {
        let [new_name, new_tag, digest] = [new_name, new_tag, digest].map(|text| text.map(str::to_owned));
        ImageOverride { name: name.to_owned(), new_name, new_tag, digest }
    }

    #[test]
    fn images_change_as_kustomize_changes_them() {
        let sha = Some("sha256:24a0");
        for (before, with, after) in [
            ("nginx", image("nginx", None, Some("2"), None), "nginx:2"),
            ("nginx:1", image("nginx", Some("my/nginx"), None, None), "my/nginx:1"),
            ("nginx:1@sha256:99", image("nginx", None, Some("2"), None), "nginx:2"),
            ("nginx:1", image("nginx", None, None, sha), "nginx@sha256:24a0"),
            ("nginx:1", image("nginx", None, Some("2"), sha), "nginx:2@sha256:24a0"),
            ("host:5000/nginx", image("host:5000/nginx", None, Some("2"), None), "host:5000/nginx:2"),
            ("host:5000/nginx:1", image("nginx", None, Some("2"), None), "host:5000/nginx:1"),
            ("nginxy:1", image("nginx", None, Some("2"), None), "nginxy:1"),
            ("nginx@sha256:99", image("nginx", Some("other"), None, None), "other@sha256:99"),
        ] {
            assert_eq!(changed(before, &[with]), after, "{before}");
        }
    }

    #[test]
    fn all_containers_have_theirs_changed_and_nothing_else() {
        let images = [image("a", None, Some("2"), None), image("a", Some("b"), None, None)];
        let mut object = json!({"kind": "CronJob", "image": "a", "spec": {"image": "a:1", "jobTemplate": {"spec": {
            "containers": [{"image": "a:1"}, {"name": "none"}], "initContainers": [{"image": "c:1"}]}}}});
        change(&mut object, &images);
        let spec = &object["spec"]["jobTemplate"]["spec"];
        assert_eq!(spec["containers"][0]["image"], "b:2");
        assert_eq!((&spec["initContainers"][0]["image"], &object["spec"]["image"]), (&json!("c:1"), &json!("a:1")));
        let mut definition = json!({"kind": "CustomResourceDefinition", "containers": [{"image": "a:1"}]});
        change(&mut definition, &images);
        assert_eq!(definition["containers"][0]["image"], "a:1");
    }
}
