//! Sprig's functions on paths (`path` and, on Linux the same, `path/filepath`) and URLs. Nothing here looks at a file.

use super::{
    super::value::{Element, Map, Outcome, Run, Text as Bytes, Value},
    Arguments, Function,
    Param::{Map as Dict, Text},
    function,
};

pub(super) const FUNCTIONS: &[Function] = &[
    function("base", &[Text], |run, it| run.text(base(it.text(0)))),
    function("osBase", &[Text], |run, it| run.text(base(it.text(0)))),
    function("dir", &[Text], |run, it| run.text(directory(it.text(0)))),
    function("osDir", &[Text], |run, it| run.text(directory(it.text(0)))),
    function("clean", &[Text], |run, it| run.text(clean(it.text(0)))),
    function("osClean", &[Text], |run, it| run.text(clean(it.text(0)))),
    function("ext", &[Text], |run, it| run.text(extension(it.text(0)))),
    function("osExt", &[Text], |run, it| run.text(extension(it.text(0)))),
    function("isAbs", &[Text], |_, it| Ok(Value::Bool(it.text(0).starts_with(b"/")))),
    function("osIsAbs", &[Text], |_, it| Ok(Value::Bool(it.text(0).starts_with(b"/")))),
    function("urlParse", &[Text], parse),
    function("urlJoin", &[Dict], join),
];

fn base(path: &[u8]) -> &[u8] {
    let Some(end) = path.iter().rposition(|byte| *byte != b'/') else {
        return if path.is_empty() { b"." } else { b"/" };
    };
    let path = &path[..=end];
    &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)..]
}

fn directory(path: &[u8]) -> Vec<u8> {
    clean(&path[..path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)])
}

fn extension(path: &[u8]) -> &[u8] {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(path, |slash| &path[slash..]);
    name.iter().rposition(|byte| *byte == b'.').map_or(b"", |dot| &name[dot..])
}

/// The shortest path that means the same.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = [if rooted { b"/".as_slice() } else { b"" }, &parts.join(&b"/"[..])].concat();
    if joined.is_empty() { b".".to_vec() } else { joined }
}

const NO_URL: &str = "the text is not a URL";

/// `net/url.Parse`, into a dict. Written for this dict's parts: the URLs of `url` are those of the web, which are
/// normalized and must have a host.
fn parse(run: &Run, it: &Arguments) -> Outcome {
    let text = it.text(0);
    if text.iter().any(u8::is_ascii_control) {
        return Err(NO_URL);
    }
    let (rest, fragment) = cut(text, b'#');
    let (scheme, rest) = scheme(rest)?;
    let (rest, query) = cut(rest, b'?');
    let mut dict = Parts {
        scheme: scheme.to_ascii_lowercase(),
        query: query.unwrap_or_default().to_vec(),
        fragment: unescape(fragment.unwrap_or_default())?,
        ..Parts::default()
    };
    if !rest.starts_with(b"/") && !scheme.is_empty() {
        dict.opaque = rest.to_vec();
        return dict.into_map(run);
    }
    if scheme.is_empty() && rest.split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':')) {
        return Err(NO_URL);
    }
    let mut path = rest;
    let authority = rest.strip_prefix(b"//").filter(|rest| !scheme.is_empty() || !rest.starts_with(b"/"));
    if let Some(behind) = authority {
        let end = behind.iter().position(|byte| *byte == b'/').unwrap_or(behind.len());
        let (authority, behind) = behind.split_at(end);
        path = behind;
        let at = authority.iter().rposition(|byte| *byte == b'@');
        let (user, host) = at.map_or((None, authority), |at| (Some(&authority[..at]), &authority[at + 1..]));
        dict.host = unescape(host)?;
        let port = dict.host.iter().rposition(|byte| *byte == b':').filter(|at| !dict.host[*at..].contains(&b']'));
        if port.is_some_and(|at| !dict.host[at + 1..].iter().all(u8::is_ascii_digit)) || dict.host.contains(&b' ') {
            return Err(NO_URL);
        }
        let name = &dict.host[..port.unwrap_or(dict.host.len())];
        dict.hostname = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name).to_vec();
        dict.user = user.map(userinfo).transpose()?.unwrap_or_default();
    }
    dict.path = unescape(path)?;
    dict.into_map(run)
}

#[derive(Default)]
struct Parts {
    scheme: Vec<u8>,
    host: Vec<u8>,
    hostname: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
    opaque: Vec<u8>,
    fragment: Vec<u8>,
    user: Vec<u8>,
}

impl Parts {
    fn into_map(self, run: &Run) -> Outcome {
        let Self { scheme, host, hostname, path, query, opaque, fragment, user } = self;
        let map: Map = run.map(Element::Any)?;
        for (key, value) in [
            ("scheme", scheme),
            ("host", host),
            ("hostname", hostname),
            ("path", path),
            ("query", query),
            ("opaque", opaque),
            ("fragment", fragment),
            ("userinfo", user),
        ] {
            map.set(run, Bytes::new(key.into()), run.text(value)?)?;
        }
        Ok(Value::Map(map))
    }
}

fn cut(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == at) {
        Some(found) => (&text[..found], Some(&text[found + 1..])),
        None => (text, None),
    }
}

fn scheme(text: &[u8]) -> Outcome<(&[u8], &[u8])> {
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err(NO_URL),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok((b"", text))
}

/// `user:password`, escaped as Go writes it again.
fn userinfo(user: &[u8]) -> Outcome<Vec<u8>> {
    let (name, password) = cut(user, b':');
    let mut shown = escape(&unescape(name)?, b"-_.~$&+,;=");
    if let Some(password) = password {
        shown.push(b':');
        shown.extend(escape(&unescape(password)?, b"-_.~$&+,;="));
    }
    Ok(shown)
}

fn unescape(text: &[u8]) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = behind.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        bytes.push(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(NO_URL)?);
        rest = &behind[2..];
    }
    Ok(bytes)
}

fn escape(text: &[u8], kept: &[u8]) -> Vec<u8> {
    text.iter()
        .flat_map(|byte| {
            if byte.is_ascii_alphanumeric() || kept.contains(byte) {
                vec![*byte]
            } else {
                format!("%{byte:02X}").into_bytes()
            }
        })
        .collect()
}

/// `net/url.URL.String` of a dict.
fn join(run: &Run, it: &Arguments) -> Outcome {
    let part = |key: &str| match it.map(0).and_then(|map| map.get(key.as_bytes())) {
        None => Ok(Vec::new()),
        Some(Value::Text(text)) => Ok(text.to_vec()),
        Some(_) => Err("every part of a URL must be a string"),
    };
    let (scheme, host, path, opaque) = (part("scheme")?, part("host")?, part("path")?, part("opaque")?);
    let (query, fragment, user) = (part("query")?, part("fragment")?, part("userinfo")?);
    let mut url = Vec::new();
    if !scheme.is_empty() {
        url.extend([&scheme[..], b":"].concat());
    }
    if opaque.is_empty() {
        if !scheme.is_empty() || !host.is_empty() || !user.is_empty() {
            if !host.is_empty() || !path.is_empty() || !user.is_empty() {
                url.extend(b"//");
            }
            if !user.is_empty() {
                url.extend([&userinfo(&user)?[..], b"@"].concat());
            }
            url.extend(escape(&host, b"-_.~!$&'()*+,;=:[]<>\""));
        }
        let path = escape(&path, b"-_.~$&+,/:;=@");
        if !path.is_empty() && path[0] != b'/' && !host.is_empty() {
            url.push(b'/');
        }
        if url.is_empty() && path.split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':')) {
            url.extend(b"./");
        }
        url.extend(path);
    } else {
        url.extend(opaque);
    }
    if !query.is_empty() {
        url.extend([b"?", &query[..]].concat());
    }
    if !fragment.is_empty() {
        url.push(b'#');
        url.extend(escape(&fragment, b"-_.~$&+,/:;=?@!()*"));
    }
    run.text(url)
}
