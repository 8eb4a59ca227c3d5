//! Which keys a host may show, by a known_hosts text as OpenSSH writes it. Pure: it reads no file and learns no host.

use aws_lc_rs::hmac;
use russh::{
    Preferred,
    keys::{
        Algorithm, HashAlg, PublicKey,
        ssh_key::known_hosts::{Entry, HostPatterns, Marker},
    },
};

/// What known_hosts says of one host.
pub struct KnownHost {
    /// As known_hosts writes it: `host`, or `[host]:port` unless the port is 22.
    name: String,
    entries: Vec<Entry>,
}

impl KnownHost {
    pub fn find(known_hosts: &str, host: &str, port: u16) -> Self {
        let host = host.to_ascii_lowercase();
        let name = if port == 22 { host } else { format!("[{host}]:{port}") };
        let entries = entries(known_hosts).filter(|entry| matches(entry.host_patterns(), &name)).collect();
        Self { name, entries }
    }

    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.entries.iter().filter(|entry| entry.marker().is_none()).map(Entry::public_key)
    }

    pub fn algorithms(&self) -> Vec<Algorithm> {
        let usable = |key: &PublicKey| Some(key.algorithm()).filter(|kind| Preferred::DEFAULT.key.contains(kind));
        self.keys().filter_map(usable).collect()
    }

    pub fn check(&self, shown: &PublicKey) -> Result<(), String> {
        let same = |key: &PublicKey| key.key_data() == shown.key_data();
        let revoked = |entry: &Entry| entry.marker() == Some(&Marker::Revoked) && same(entry.public_key());
        let fingerprint = shown.fingerprint(HashAlg::Sha256);
        let name = &self.name;
        if self.entries.iter().any(revoked) {
            return Err(format!("known_hosts revokes the key of {name}, {fingerprint}"));
        }
        if self.keys().any(same) {
            return Ok(());
        }
        let known: Vec<String> = self.keys().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).collect();
        let seen = if known.is_empty() {
            format!("{name} is not in known_hosts; its key is {fingerprint}")
        } else {
            format!("the key of {name} is {fingerprint}, but known_hosts has {}", known.join(", "))
        };
        let line = shown.to_openssh().unwrap_or_default();
        let remedy = "if that is what the host publishes, add this line to known_hosts in the Secret";
        Err(format!("{seen}; {remedy}: {name} {line}"))
    }
}

/// Lines that cannot be read, such as keys of unknown kinds, say nothing of a host, as in OpenSSH.
pub fn entries(known_hosts: &str) -> impl Iterator<Item = Entry> {
    known_hosts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.parse().ok())
}

fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            // How OpenSSH hides a name. It guards no secret of ours.
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let hit = |pattern: &str| glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
            let (not, any): (Vec<&str>, Vec<&str>) =
                patterns.iter().map(String::as_str).partition(|pattern| pattern.starts_with('!'));
            any.into_iter().any(hit) && !not.into_iter().any(|pattern| hit(&pattern[1..]))
        }
    }
}

/// `*` is any text, `?` any one character. Takes no longer than the product of the two lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, read));
                at += 1;
            }
            (Some(&one), _) if one == b'?' || one == text[read] => (at, read) = (at + 1, read + 1),
            (_, Some((after, skipped))) => {
                star = Some((after, skipped + 1));
                (at, read) = (after + 1, skipped + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";
    /// `example.com`, hidden by OpenSSH.
    const HASHED: &str = "|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak=";

    fn knows(known_hosts: &str, host: &str, port: u16) -> Result<(), String> {
        KnownHost::find(known_hosts, host, port).check(&ONE.parse().unwrap())
    }

    #[test]
    fn a_host_is_known_by_its_name_and_port() {
        for (names, host, port) in [
            ("example.com", "example.com", 22),
            ("example.com", "EXAMPLE.com", 22),
            ("Example.com,192.0.2.1", "192.0.2.1", 22),
            ("[example.com]:2222", "example.com", 2222),
            ("[::1]:2222", "::1", 2222),
            ("*.example.com", "git.example.com", 22),
            ("git?.*.com", "git1.example.com", 22),
            (HASHED, "example.com", 22),
        ] {
            assert_eq!(knows(&format!("# hosts\n\n{names}\t{ONE} comment\n"), host, port), Ok(()), "{names}");
        }
        for (names, host, port) in [
            ("example.com", "example.com", 2222),
            ("[example.com]:2222", "example.com", 22),
            ("example.com", "example.com.evil.org", 22),
            ("*.example.com", "example.com", 22),
            ("*.example.com,!git.example.com", "git.example.com", 22),
            (HASHED, "example.org", 22),
            ("# example.com", "example.com", 22),
            ("@cert-authority example.com", "example.com", 22),
        ] {
            assert!(
                knows(&format!("{names} {ONE}"), host, port).is_err_and(|why| why.contains("is not in")),
                "{names}"
            );
        }
    }

    #[test]
    fn another_key_is_refused_with_the_line_that_would_trust_it() {
        let why = knows(&format!("example.com {OTHER}"), "example.com", 22).unwrap_err();
        assert!(why.contains("SHA256:"), "{why}");
        let line = why.rsplit_once("in the Secret: ").unwrap().1;
        assert_eq!(knows(line, "example.com", 22), Ok(()));
        // Several keys may be right at a time, but not one that was revoked.
        assert_eq!(knows(&format!("example.com {OTHER}\nexample.com {ONE}"), "example.com", 22), Ok(()));
        let revoked = format!("example.com {ONE}\n@revoked * {ONE}");
        assert!(knows(&revoked, "example.com", 22).is_err_and(|why| why.contains("revokes")));
    }

    #[test]
    fn patterns_of_many_stars_take_no_time() {
        assert!(!glob("*a".repeat(60).as_bytes(), "a".repeat(59).as_bytes()));
        assert!(!glob(format!("{}b", "*a".repeat(60)).as_bytes(), "a".repeat(250).as_bytes()));
        assert!(glob(b"**", b""));
    }
}
