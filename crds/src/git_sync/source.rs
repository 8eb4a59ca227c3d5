//! Where the manifests of a GitSync come from. No behaviour here.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// A Git repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// https, http, ssh or file.
    #[x_kube(validation = Rule::new("self.matches('^(https?|ssh|file)://')").message("must begin with https://, http://, ssh:// or file://"))]
    pub url: String,
    /// Other places of the same repository, tried in their order while the first cannot be reached. What refuses the
    /// credentials, or has something else to say, is not passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub fallback_urls: Vec<String>,
    /// What to follow.
    #[serde(rename = "ref", default)]
    pub reference: GitReference,
    /// Secret in the GitSync's namespace. For https: username and password, or bearerToken; ca.crt, the authorities that
    /// are trusted beside the usual ones; tls.crt and tls.key, a client certificate. For ssh: identity and known_hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// Secret in the GitSync's namespace with the address of an HTTP proxy, and its username and password if it wants
    /// them. For https and http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_secret_ref: Option<SecretReference>,
    /// Whose signatures a commit must bear to be applied. While the newest does not, the last one that did stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Lets the Git host say that something was pushed, by POST to /hook/NAMESPACE/NAME of this GitSync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// What to follow. Where several are given, the last of them counts: branch, tag, semver, name, commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitReference {
    /// Branch name; main when nothing else is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Tag name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The tag with the highest version in a range, such as ">=1.0.0 <2.0.0", 1.x, ~1.2 or ^1. Pre-releases count only
    /// for a range that names one, such as ">=1.0.0-0".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semver: Option<String>,
    /// Any reference by its full name, such as refs/pull/420/head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of a commit. Hosts that do not hand out commits by their ids need the branch that it is on, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// See [`GitSource::verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// What must be signed.
    #[serde(default)]
    pub mode: VerifyMode,
    /// Whether every commit since the last applied one must be signed too, and not the newest alone: else whoever may
    /// push has somebody's next signed commit carry theirs along. A switch beside the mode, because it goes with each.
    /// What is fetched then is as deep as that range. Before the first commit is applied there is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub range: bool,
    /// Secret in the GitSync's namespace with the public keys of those who may sign: OpenPGP keys in entries that end in
    /// .asc, SSH keys, one a line, in entries that end in .sshpub or .pub or are named allowed_signers.
    pub secret_ref: SecretReference,
}

/// See [`Verify::mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyMode {
    /// The commit.
    #[default]
    #[serde(rename = "HEAD", alias = "head")]
    Head,
    /// The tag that leads to it, which must be an annotated one.
    Tag,
    /// Both.
    #[serde(rename = "TagAndHEAD")]
    TagAndHead,
}

/// See [`GitSource::webhook`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// How the host shows that it knows the token.
    #[serde(rename = "type", default)]
    pub kind: WebhookType,
    /// Secret in the GitSync's namespace; its entry token is what the host was given too.
    pub secret_ref: SecretReference,
}

/// See [`Webhook::kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WebhookType {
    /// X-Hub-Signature-256: sha256=HMAC of the body.
    GitHub,
    /// X-Gitlab-Token: the token itself.
    GitLab,
    /// X-Gitea-Signature: HMAC of the body. Forgejo's too.
    Gitea,
    /// X-Signature: sha256=HMAC of the body.
    #[default]
    Generic,
}

impl GitSource {
    /// Whether both follow the same thing, however they get to it.
    pub fn follows_same(&self, other: &Self) -> bool {
        (&self.url, &self.reference) == (&other.url, &other.reference)
    }
}
