//! Reads a kubeconfig that a stranger wrote: what it says is used, but for what would have the controller run a program,
//! read its own disk, or talk to whoever answers. Pure. Nothing of what it holds is told, but for names and the server.

use http::Uri;
use kube::config::{AuthInfo, Cluster, Kubeconfig};

use crate::context::line;

/// What it leads to.
pub struct Access {
    /// As it was read; all that it needs is in it.
    pub kubeconfig: Kubeconfig,
    /// Address of the API server.
    pub server: String,
}

/// Why it is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// YAML or JSON it may be, but of something else.
    #[error("it is no kubeconfig{}", .line.map_or_else(String::new, |line| format!(" (line {line})")))]
    Unreadable {
        /// Where that shows.
        line: Option<u64>,
    },
    /// It names what it has not.
    #[error("it has no {0}")]
    Missing(String),
    /// It leads to the controller's disk.
    #[error("its {field} is a file, which the controller does not read: put what is in it into {instead}")]
    File {
        /// What names the file.
        field: &'static str,
        /// What takes its content.
        instead: &'static str,
    },
    /// It would have a program run.
    #[error(
        "its user has {0}, which runs a program, and the controller runs none: give it a token or a client certificate"
    )]
    Program(&'static str),
    /// It asks for somebody else's rights, as spec.serviceAccountName does.
    #[error("its user acts as somebody else (as, as-groups): name an account in spec.serviceAccountName instead")]
    Acts,
    /// Whoever answers would be trusted.
    #[error(
        "{0}: anybody on the way could read and change what is sent; --insecure-kubeconfig-tls of the controller allows it"
    )]
    Insecure(&'static str),
    /// Nowhere to go.
    #[error("its server {0}")]
    Server(&'static str),
    /// Something in it is not as it must be. The words of those who say so quote it.
    #[error(
        "its certificate-authority-data, client-certificate-data, client-key-data or token cannot be used: certificates \
         and keys must be PEM in base64, and a client certificate needs both"
    )]
    Data,
    /// No way to go.
    #[error("its proxy-url must begin with http:// or https://")]
    Proxy,
}

/// Reads it. `insecure`: whether it may lead to a server that shows no certificate that is known.
pub fn read(text: &str, insecure: bool) -> Result<Access, Refused> {
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| Refused::Unreadable { line: line(&error) })?;
    let missing = |what: &str, name: &str| Refused::Missing(format!("{what} {name:?}"));
    let current = kubeconfig.current_context.as_deref().unwrap_or_default();
    if current.is_empty() {
        return Err(Refused::Missing("current-context".to_owned()));
    }
    let context = kubeconfig.contexts.iter().find(|it| it.name == current).and_then(|it| it.context.as_ref());
    let context = context.ok_or_else(|| missing("context", current))?;
    let cluster = kubeconfig.clusters.iter().find(|it| it.name == context.cluster).and_then(|it| it.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?;
    let user = context.user.as_deref().unwrap_or_default();
    let user_info = kubeconfig.auth_infos.iter().find(|it| it.name == user).and_then(|it| it.auth_info.as_ref());
    check_user(user_info.ok_or_else(|| missing("user", user))?)?;
    let server = check_cluster(cluster, insecure)?;
    Ok(Access { kubeconfig, server })
}

fn check_user(user: &AuthInfo) -> Result<(), Refused> {
    let AuthInfo { impersonate, impersonate_uid, impersonate_groups, impersonate_user_extra, .. } = user;
    let acts = [impersonate.is_some(), impersonate_uid.is_some(), impersonate_groups.is_some()];
    if acts.contains(&true) || impersonate_user_extra.is_some() {
        return Err(Refused::Acts);
    }
    if user.exec.is_some() {
        return Err(Refused::Program("exec"));
    }
    if user.auth_provider.is_some() {
        return Err(Refused::Program("auth-provider"));
    }
    file(user.token_file.as_ref(), "tokenFile", "token")?;
    file(user.client_certificate.as_ref(), "client-certificate", "client-certificate-data")?;
    file(user.client_key.as_ref(), "client-key", "client-key-data")
}

fn check_cluster(cluster: &Cluster, insecure: bool) -> Result<String, Refused> {
    file(cluster.certificate_authority.as_ref(), "certificate-authority", "certificate-authority-data")?;
    if cluster.insecure_skip_tls_verify == Some(true) && !insecure {
        return Err(Refused::Insecure("its cluster has insecure-skip-tls-verify"));
    }
    let uri = |text: &str| text.parse::<Uri>().ok();
    if let Some(proxy) = cluster.proxy_url.as_deref().filter(|text| !text.is_empty()) {
        let scheme = uri(proxy).and_then(|uri| uri.scheme_str().map(str::to_owned));
        if !["http", "https"].contains(&scheme.unwrap_or_default().as_str()) {
            return Err(Refused::Proxy);
        }
    }
    let Some(server) = cluster.server.as_deref().and_then(uri) else {
        return Err(Refused::Server("is missing, or no address such as https://example.com:6443"));
    };
    let (Some(scheme), Some(authority)) = (server.scheme_str(), server.authority()) else {
        return Err(Refused::Server("must begin with https://"));
    };
    match scheme {
        "https" => {}
        "http" if insecure => {}
        "http" => return Err(Refused::Insecure("its server is no https:// address")),
        _ => return Err(Refused::Server("must begin with https://")),
    }
    if authority.as_str().contains('@') {
        return Err(Refused::Server("has a name or password in its address: give them as username and password"));
    }
    Ok(format!("{scheme}://{authority}{}", server.path().trim_end_matches('/')))
}

fn file(path: Option<&String>, field: &'static str, instead: &'static str) -> Result<(), Refused> {
    if path.is_some_and(|path| !path.is_empty()) { Err(Refused::File { field, instead }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kubeconfig(cluster: &Value, user: &Value) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "there", "user": "me"}}],
            "clusters": [{"name": "there", "cluster": cluster}],
            "users": [{"name": "me", "user": user}],
        })
        .to_string()
    }

    fn refused(cluster: &Value, user: &Value, insecure: bool) -> String {
        read(&kubeconfig(cluster, user), insecure).map_or_else(|why| why.to_string(), |access| access.server)
    }

    #[test]
    fn what_reaches_out_of_it_is_refused() {
        let (cluster, token) = (json!({"server": "https://example.com:6443/"}), json!({"token": "t0ken"}));
        assert_eq!(refused(&cluster, &token, false), "https://example.com:6443");
        for (user, words) in [
            (json!({"exec": {"command": "sh"}}), "exec, which runs a program"),
            (json!({"auth-provider": {"name": "gcp"}}), "auth-provider, which runs a program"),
            (json!({"tokenFile": "/var/run/token"}), "its tokenFile is a file"),
            (json!({"client-certificate": "/etc/tls.crt"}), "into client-certificate-data"),
            (json!({"client-key": "/etc/tls.key"}), "into client-key-data"),
            (json!({"token": "t0ken", "as": "system:admin"}), "spec.serviceAccountName"),
            (json!({"token": "t0ken", "as-groups": ["system:masters"]}), "spec.serviceAccountName"),
        ] {
            let said = refused(&cluster, &user, true);
            assert!(said.contains(words), "{said}");
        }
        let of = |field: &str, value: Value| {
            let mut cluster = cluster.clone();
            cluster[field] = value;
            cluster
        };
        for (cluster, words) in [
            (of("certificate-authority", json!("/etc/ca.crt")), "into certificate-authority-data"),
            (of("proxy-url", json!("socks5://me:passw0rd@example.com")), "its proxy-url must begin"),
            (of("server", json!("https://me:passw0rd@example.com")), "has a name or password in its address"),
            (of("server", json!("ftp://example.com")), "must begin with https://"),
            (of("server", json!("file:///etc/passwd")), "no address such as https://"),
            (of("server", json!("")), "is missing"),
        ] {
            let said = refused(&cluster, &token, true);
            assert!(said.contains(words) && !said.contains("passw0rd"), "{said}");
        }
    }

    #[test]
    fn whom_nobody_can_tell_apart_is_trusted_only_where_that_is_allowed() {
        let token = json!({"token": "t0ken"});
        for cluster in [
            json!({"server": "https://example.com", "insecure-skip-tls-verify": true}),
            json!({"server": "http://example.com"}),
        ] {
            let said = refused(&cluster, &token, false);
            assert!(said.contains("--insecure-kubeconfig-tls"), "{said}");
            assert!(refused(&cluster, &token, true).ends_with("://example.com"));
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_quoted() {
        let said = |text: &str| read(text, false).map(|access| access.server).unwrap_err().to_string();
        assert_eq!(said("{}"), "it has no current-context");
        assert_eq!(said(r#"{"current-context": "it"}"#), "it has no context \"it\"");
        let whole = kubeconfig(&json!({"server": "https://example.com"}), &json!({"token": "t0ken"}));
        assert_eq!(said(&whole.replace("\"cluster\":\"there\"", "\"cluster\":\"x\"")), "it has no cluster \"x\"");
        assert_eq!(said(&whole.replace("\"user\":\"me\"", "\"user\":\"x\"")), "it has no user \"x\"");
        let bad = said("users:\n- name: me\n  user: {token: [t0ken]}\n");
        assert_eq!(bad, "it is no kubeconfig (line 3)");
        let bad = said("t0ken");
        assert!(bad.starts_with("it is no kubeconfig") && !bad.contains("t0ken"), "{bad}");
    }
}
