//! Which cluster, and as whom: kubectl's rules for kubeconfigs and for the flags that count before them. Reads files;
//! connects to nothing.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use kube::config::{
    AuthInfo, Cluster as ClusterInfo, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext,
};

use super::{Access, ClusterError};

/// The one context, cluster and user that count, with all that was given instead. `None` without any configuration.
pub(super) fn effective(access: &Access) -> Result<Option<Kubeconfig>, ClusterError> {
    let named = [&access.context, &access.cluster, &access.user, &access.server].iter().any(|given| given.is_some());
    match kubeconfig(access)? {
        None if !named => Ok(None),
        found => settle(found.unwrap_or_default(), access).map(Some),
    }
}

/// What was given counts before what the files say; what was given by name must exist.
fn settle(kubeconfig: Kubeconfig, access: &Access) -> Result<Kubeconfig, ClusterError> {
    const NAME: &str = "given";
    let name = access.context.clone().or(kubeconfig.current_context).filter(|name| !name.is_empty());
    let mut contexts = kubeconfig.contexts.into_iter();
    let context = match name {
        Some(name) => Some(contexts.find(|it| it.name == name).ok_or(ClusterError::Context(name))?),
        None => None,
    };
    let mut context = context.and_then(|named| named.context).unwrap_or_default();

    let name = access.cluster.clone().unwrap_or_else(|| context.cluster.clone());
    let found = kubeconfig.clusters.into_iter().find(|it| it.name == name);
    let cluster = match found {
        None if access.cluster.is_some() => return Err(ClusterError::Cluster(name)),
        found => overridden_cluster(found.and_then(|it| it.cluster).unwrap_or_default(), access),
    };
    let name = access.user.clone().or(context.user.take()).unwrap_or_default();
    let found = kubeconfig.auth_infos.into_iter().find(|it| it.name == name);
    let user = match found {
        None if access.user.is_some() => return Err(ClusterError::User(name)),
        found => overridden_user(found.and_then(|it| it.auth_info).unwrap_or_default(), access),
    };

    if cluster.server.is_none() {
        return Err(ClusterError::NoConfiguration);
    }
    NAME.clone_into(&mut context.cluster);
    context.user = Some(NAME.to_owned());
    let name = || NAME.to_owned();
    Ok(Kubeconfig {
        clusters: vec![NamedCluster { name: name(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: name(), auth_info: Some(user), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: name(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    })
}

fn overridden_cluster(mut cluster: ClusterInfo, access: &Access) -> ClusterInfo {
    if access.insecure_skip_tls_verify || access.certificate_authority.is_some() {
        cluster.insecure_skip_tls_verify = Some(access.insecure_skip_tls_verify);
        cluster.certificate_authority = access.certificate_authority.as_deref().map(text);
        cluster.certificate_authority_data = None;
    }
    if access.tls_server_name.is_some() || access.server.is_some() {
        cluster.tls_server_name.clone_from(&access.tls_server_name);
    }
    if let Some(server) = &access.server {
        let secured = cluster.certificate_authority.is_some()
            || cluster.certificate_authority_data.is_some()
            || cluster.insecure_skip_tls_verify == Some(true);
        let scheme = if secured { "https" } else { "http" };
        let whole = server.contains("://");
        cluster.server = Some(if whole { server.clone() } else { format!("{scheme}://{server}") });
    }
    cluster.proxy_url = access.proxy_url.clone().or(cluster.proxy_url);
    cluster.disable_compression = access.disable_compression.then_some(true).or(cluster.disable_compression);
    cluster
}

/// A token or a password given by hand is the way to authenticate, whatever else the user has.
fn overridden_user(mut user: AuthInfo, access: &Access) -> AuthInfo {
    if access.token.is_some() || access.username.is_some() || access.password.is_some() {
        let own = user;
        user = AuthInfo {
            token: access.token.clone(),
            username: access.username.clone().or(own.username.filter(|_| access.token.is_none())),
            password: access.password.clone().or(own.password.filter(|_| access.token.is_none())),
            token_file: None,
            exec: None,
            auth_provider: None,
            ..own
        };
    }
    if let Some(path) = &access.client_certificate {
        user.client_certificate = Some(text(path));
        user.client_certificate_data = None;
    }
    if let Some(path) = &access.client_key {
        user.client_key = Some(text(path));
        user.client_key_data = None;
    }
    user.impersonate = access.impersonate.clone().or(user.impersonate);
    user.impersonate_uid = access.impersonate_uid.clone().or(user.impersonate_uid);
    if !access.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(access.impersonate_groups.clone());
    }
    user
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The kubeconfig by kubectl's rules: the one that was named, else all of `$KUBECONFIG` that exist, else the one at
/// home. `None` when there is none, or nothing in it.
fn kubeconfig(access: &Access) -> Result<Option<Kubeconfig>, ClusterError> {
    if let Some(path) = &access.kubeconfig {
        return read(path).map(Some);
    }
    let listed: Vec<PathBuf> = env::var_os("KUBECONFIG")
        .map(|list| env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    let paths = if listed.is_empty() {
        env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect()
    } else {
        listed
    };
    let mut merged = Kubeconfig::default();
    for path in paths {
        match read(&path) {
            Ok(kubeconfig) => {
                merged = merged.merge(kubeconfig).map_err(|error| ClusterError::Configuration(Box::new(error)))?;
            }
            Err(ClusterError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let empty = merged.clusters.is_empty() && merged.contexts.is_empty();
    Ok((!empty).then_some(merged))
}

/// Reads one file. What its parser says is kept back: it quotes the file, and the file holds tokens.
fn read(path: &Path) -> Result<Kubeconfig, ClusterError> {
    Kubeconfig::read_from(path).map_err(|error| match error {
        KubeconfigError::ReadConfig(source, path) => ClusterError::Open { path, source },
        KubeconfigError::Parse(error) => {
            ClusterError::Malformed { path: path.to_owned(), line: error.location().map(|at| at.line()) }
        }
        error => ClusterError::Configuration(Box::new(error)),
    })
}

#[cfg(test)]
mod tests {
    use kube::config::Context;
    use secrecy::ExposeSecret as _;

    use super::*;

    const TWO: &str = "
clusters:
- {name: near, cluster: {server: 'https://near', certificate-authority-data: YQ==, tls-server-name: n, proxy-url: 'http://p'}}
- {name: far, cluster: {server: 'https://far'}}
users:
- {name: me, user: {token: old, client-certificate-data: YQ==, client-key-data: YQ==, as: none}}
- {name: robot, user: {exec: {command: false}}}
contexts:
- {name: a, context: {cluster: near, user: me, namespace: shop}}
- {name: b, context: {cluster: far}}
current-context: a
";

    fn settled(access: &Access) -> Result<(Context, ClusterInfo, AuthInfo), ClusterError> {
        let mut settled = settle(Kubeconfig::from_yaml(TWO).unwrap(), access)?;
        Ok((
            settled.contexts.remove(0).context.unwrap(),
            settled.clusters.remove(0).cluster.unwrap(),
            settled.auth_infos.remove(0).auth_info.unwrap(),
        ))
    }

    #[test]
    fn context_cluster_and_user_are_chosen_by_name() {
        let server = |access: &Access| settled(access).unwrap().1.server.unwrap();
        assert_eq!(server(&Access::default()), "https://near");
        assert_eq!(server(&Access { context: Some("b".to_owned()), ..Access::default() }), "https://far");
        assert_eq!(server(&Access { cluster: Some("far".to_owned()), ..Access::default() }), "https://far");
        let robot = settled(&Access { user: Some("robot".to_owned()), ..Access::default() }).unwrap();
        assert!(robot.2.exec.is_some() && robot.2.token.is_none());
        assert_eq!(robot.0.namespace.as_deref(), Some("shop"));
        for (access, words) in [
            (Access { context: Some("c".to_owned()), ..Access::default() }, "context \"c\" does not exist"),
            (Access { cluster: Some("c".to_owned()), ..Access::default() }, "cluster \"c\" does not exist"),
            (Access { user: Some("c".to_owned()), ..Access::default() }, "auth info \"c\" does not exist"),
        ] {
            assert_eq!(settled(&access).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn what_is_given_counts_before_the_kubeconfig() {
        let access = Access {
            server: Some("https://other".to_owned()),
            certificate_authority: Some("ca.crt".into()),
            proxy_url: Some("http://q".to_owned()),
            disable_compression: true,
            token: Some("new".to_owned().into()),
            client_certificate: Some("me.crt".into()),
            client_key: Some("me.key".into()),
            impersonate: Some("deploy".to_owned()),
            impersonate_groups: vec!["ops".to_owned()],
            impersonate_uid: Some("7".to_owned()),
            ..Access::default()
        };
        let (_, cluster, user) = settled(&access).unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://other"));
        assert_eq!(cluster.certificate_authority.as_deref(), Some("ca.crt"));
        assert!(cluster.certificate_authority_data.is_none(), "it would count before the file");
        assert!(cluster.tls_server_name.is_none(), "another server has another name");
        assert_eq!((cluster.proxy_url.as_deref(), cluster.disable_compression), (Some("http://q"), Some(true)));
        assert_eq!(user.token.unwrap().expose_secret(), "new");
        assert_eq!((user.client_certificate.as_deref(), user.client_certificate_data), (Some("me.crt"), None));
        assert!(user.client_key.as_deref() == Some("me.key") && user.client_key_data.is_none());
        assert_eq!((user.impersonate.as_deref(), user.impersonate_uid.as_deref()), (Some("deploy"), Some("7")));
        assert_eq!(user.impersonate_groups, Some(vec!["ops".to_owned()]));
    }

    #[test]
    fn unchecked_is_only_what_was_asked_to_be() {
        let (_, cluster, _) = settled(&Access::default()).unwrap();
        assert!(cluster.insecure_skip_tls_verify.is_none() && cluster.certificate_authority_data.is_some());
        let (_, cluster, _) = settled(&Access { insecure_skip_tls_verify: true, ..Access::default() }).unwrap();
        assert_eq!((cluster.insecure_skip_tls_verify, cluster.certificate_authority_data), (Some(true), None));
    }

    #[test]
    fn one_way_to_authenticate_is_given_at_a_time() {
        let basic = Access {
            username: Some("me".to_owned()),
            password: Some("p".to_owned().into()),
            user: Some("robot".to_owned()),
            ..Access::default()
        };
        let (_, _, user) = settled(&basic).unwrap();
        assert!(user.username.is_some() && user.password.is_some() && user.exec.is_none());
    }

    #[test]
    fn a_server_needs_no_kubeconfig_and_no_scheme() {
        let server =
            |access: Access| settle(Kubeconfig::default(), &access).unwrap().clusters[0].cluster.clone().unwrap();
        let bare = Access { server: Some("host:1".to_owned()), ..Access::default() };
        assert_eq!(server(bare.clone()).server.as_deref(), Some("http://host:1"));
        let secured = Access { insecure_skip_tls_verify: true, ..bare };
        assert_eq!(server(secured).server.as_deref(), Some("https://host:1"));
        assert!(matches!(settle(Kubeconfig::default(), &Access::default()), Err(ClusterError::NoConfiguration)));
    }
}
