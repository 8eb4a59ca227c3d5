//! What makes manifests of what stands at a path, and whether a path stays in its repository. Pure: the files are an
//! argument.

use crate::git_sync::Renderer;

/// A kustomization is called one of these.
pub const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Chooses by the files directly at the path.
pub fn choose<E>(mut is_file: impl FnMut(&str) -> Result<bool, E>) -> Result<Renderer, E> {
    for name in KUSTOMIZATIONS {
        if is_file(name)? {
            return Ok(Renderer::Kustomize);
        }
    }
    Ok(if is_file("Chart.yaml")? { Renderer::Helm } else { Renderer::Plain })
}

/// A path seen from a folder; `None` if it leads out of the repository.
pub fn resolve(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
