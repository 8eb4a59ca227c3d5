//! What stands in the memory of a process beside the test. It only reads, and takes root, since our programs let nobody
//! else of their user look.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

use memchr::memmem;

/// Read at once, and a little more, so that nothing is missed at the seams.
const CHUNK: usize = 1 << 20;
/// Shown around what was found.
const CONTEXT: usize = 48;

/// Something to look for, and what to call it.
#[derive(Clone, Debug)]
pub struct Needle {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// A place where one stands.
pub struct Found {
    pub name: String,
    /// What the system calls that part of the memory.
    pub region: String,
    pub address: u64,
    around: String,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x} {}: {}", self.name, self.address, self.region, self.around)
    }
}

impl Needle {
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.into() }
    }

    /// Parts of a whole, of `length` bytes each, so that half a copy is found as well.
    pub fn parts(name: &str, whole: &[u8], length: usize) -> Vec<Self> {
        let parts = whole.chunks_exact(length).enumerate();
        parts.map(|(number, part)| Self::new(&format!("{name}, part {number}"), part)).collect()
    }
}

/// Every place of the needles in memory that the process can write to. `PermissionDenied` for who may not look.
pub fn find(process: u32, needles: &[Needle]) -> io::Result<Vec<Found>> {
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let finders: Vec<_> = needles.iter().map(|needle| memmem::Finder::new(&needle.bytes)).collect();
    let overlap = needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or_default();
    let mut found = Vec::new();
    let mut bytes = vec![0; CHUNK + overlap];
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let Some((mut from, to, name)) = writable(line) else { continue };
        while from < to {
            let wanted = usize::try_from(to - from).unwrap_or(usize::MAX).min(bytes.len());
            // The process goes on meanwhile: what is no more there cannot be read.
            let Ok(read) = memory.read_at(&mut bytes[..wanted], from) else { break };
            for (needle, finder) in needles.iter().zip(&finders) {
                // What begins in the overlap is found in the next chunk.
                for at in finder.find_iter(&bytes[..read]).filter(|at| *at < CHUNK) {
                    let around = &bytes[at.saturating_sub(CONTEXT)..(at + needle.bytes.len() + CONTEXT).min(read)];
                    found.push(Found {
                        name: needle.name.clone(),
                        region: name.to_owned(),
                        address: from + at as u64,
                        around: String::from_utf8_lossy(&around.escape_ascii().collect::<Vec<_>>()).into_owned(),
                    });
                }
            }
            if read < wanted || wanted < bytes.len() {
                break;
            }
            from += CHUNK as u64;
        }
    }
    Ok(found)
}

/// Begin, end and name of a line of /proc/ID/maps.
fn writable(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let may_write = words.next()?.starts_with("rw");
    let name = words.nth(3).unwrap_or("anonymous");
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(from)?, number(to)?, name)).filter(|_| may_write)
}
