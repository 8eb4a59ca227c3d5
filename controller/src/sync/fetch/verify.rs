//! Whether what was fetched was signed by somebody who may. Pure: keys and signed words are arguments, and what counts
//! is the time of signing, so that the same commit is judged the same tomorrow.

mod openpgp;
mod sshsig;

use crds::git_sync::VerifyMode;
use k8s_openapi::ByteString;

use self::{openpgp::PgpKey, sshsig::SshKey};
use super::super::source::{Commit, SecretData, Signature, Signed};

/// Begins a signature by an SSH key.
const SSH: &str = "-----BEGIN SSH SIGNATURE-----";

/// Who may sign.
pub struct Keys {
    pgp: Vec<PgpKey>,
    ssh: Vec<SshKey>,
}

/// Why a Secret holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It has entries of other names.
    #[error("it holds no public key: entries with OpenPGP keys must end in .asc, entries with SSH keys in .sshpub")]
    None,
    /// An entry is no key.
    #[error("its entry {entry} cannot be read: {why}")]
    Unreadable { entry: String, why: &'static str },
}

/// Why something counts as unsigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// Nobody signed.
    #[error("{0} bears no signature")]
    Unsigned(String),
    /// Somebody did, but nobody we know.
    #[error("{what} is signed by {key}, which is not in the Secret; add that key if it may sign")]
    Unknown { what: String, key: String },
    /// The signature is not what it should be.
    #[error("{what} bears a signature that does not count: {why}")]
    Bad { what: String, why: String },
    /// There is no tag that could be signed.
    #[error("{0} was not reached over an annotated tag; follow one with source.ref.tag or .semver, or use mode HEAD")]
    NoTag(String),
    /// The tag was signed under another name.
    #[error("the tag {followed} was signed as {signed}: it is another tag, moved here")]
    Renamed { followed: String, signed: String },
}

/// Why one signature does not count.
pub enum Reject {
    /// It was made by this key, which nobody named.
    Unknown(String),
    /// It is broken, or the key could not sign then.
    Bad(String),
}

impl Keys {
    /// Reads `.asc` as OpenPGP, `.sshpub`, `.pub` and `allowed_signers` as SSH. Other entries are none of ours.
    pub fn from_secret_data(data: &SecretData) -> Result<Self, KeysError> {
        let (mut pgp, mut ssh) = (Vec::new(), Vec::new());
        for (entry, ByteString(bytes)) in data {
            let unreadable = |why| KeysError::Unreadable { entry: entry.clone(), why };
            let ending = entry.rsplit_once('.').map_or("", |(_, ending)| ending);
            let is_pgp = ending == "asc";
            let is_ssh = matches!(ending, "sshpub" | "pub") || entry == "allowed_signers";
            if is_pgp || is_ssh {
                let text = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not text"))?;
                if is_pgp {
                    pgp.extend(openpgp::keys(text).map_err(unreadable)?);
                } else {
                    ssh.extend(sshsig::keys(text).map_err(unreadable)?);
                }
            }
        }
        if pgp.is_empty() && ssh.is_empty() { Err(KeysError::None) } else { Ok(Self { pgp, ssh }) }
    }

    /// Who signed it.
    fn check(&self, what: String, signature: Option<&Signature>) -> Result<String, Unverified> {
        let Some(Signature { armor, payload }) = signature else { return Err(Unverified::Unsigned(what)) };
        let checked = if armor.trim_start().starts_with(SSH) {
            sshsig::verify(armor, payload, &self.ssh, signed_at(payload))
        } else {
            openpgp::verify(armor, payload, &self.pgp)
        };
        checked.map_err(|reject| match reject {
            Reject::Unknown(key) => Unverified::Unknown { what, key },
            Reject::Bad(why) => Unverified::Bad { what, why },
        })
    }

    /// Whether what a reference leads to is signed as it must be; who did it. `followed` is the tag's name.
    pub fn tip(
        &self,
        mode: VerifyMode,
        (commit, followed): (&Commit, &str),
        signed: &Signed,
    ) -> Result<String, Unverified> {
        let mut said = Vec::new();
        if mode != VerifyMode::Head {
            let tag = signed.tag.as_ref().ok_or_else(|| Unverified::NoTag(format!("the commit {commit}")))?;
            let who = self.check(format!("the tag {followed}"), tag.as_ref())?;
            let name = tag.as_ref().and_then(|tag| header(&tag.payload, "tag ")).unwrap_or_default();
            if name != followed {
                return Err(Unverified::Renamed { followed: followed.to_owned(), signed: name });
            }
            said.push(format!("the tag {followed} is signed by {who}"));
        }
        if mode != VerifyMode::Tag {
            let who = self.check(format!("the commit {commit}"), signed.commit.as_ref())?;
            said.push(format!("the commit {commit} is signed by {who}"));
        }
        Ok(said.join(", "))
    }

    /// Whether all of these are signed; how many they are.
    pub fn range(&self, commits: &[(Commit, Option<Signature>)]) -> Result<usize, Unverified> {
        for (commit, signature) in commits {
            self.check(format!("the commit {commit}"), signature.as_ref())?;
        }
        Ok(commits.len())
    }
}

/// A line of an object's head; what a person wrote comes after the first empty line.
fn header(payload: &[u8], key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(payload);
    let mut head = text.lines().take_while(|line| !line.is_empty());
    head.find_map(|line| line.strip_prefix(key).map(str::to_owned))
}

/// When the commit or tag says that it was made.
fn signed_at(payload: &[u8]) -> Option<i64> {
    let who = header(payload, "committer ").or_else(|| header(payload, "tagger "))?;
    who.rsplit(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests;
