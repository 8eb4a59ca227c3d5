//! What both programs do so that secrets stay in their memory, and only as long as they must: no core dump, nobody of the
//! same user who looks in, a panic that does not quote what was being worked on, and freed memory that is wiped.
//!
//! The wiping is the allocator's ([`Allocator`], which each program declares as its own): plaintexts pass through the
//! buffers of libraries that know nothing of secrets, and all of those are freed some time. The stack is wiped after work
//! that is done [`wiped`]. What is still in use is not wiped: `SECURITY.md` says what that means.

use std::{alloc::System, any::Any, panic::PanicHookInfo};

use zeroize::Zeroize as _;
use zeroizing_alloc::ZeroAlloc;

/// As deep as ciphers and parsers go, several times over.
const STACK: usize = 64 << 10;

/// The system's allocator, but what is freed is wiped first; also what a growing text or list leaves behind. Measured, it
/// costs nothing beside RSA and some two hundredths of parsing JSON.
pub type Allocator = ZeroAlloc<System>;

/// For `#[global_allocator]`.
pub const ALLOCATOR: Allocator = ZeroAlloc(System);

/// Forbids core dumps, and other processes of the same user to read this one's memory or to attach to it. Call it first
/// of all. Where the system knows no such thing, nothing is done.
#[cfg(target_os = "linux")]
pub fn keep_memory_private() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

    // The limit as well: children inherit it.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// See there.
#[cfg(not(target_os = "linux"))]
pub fn keep_memory_private() -> std::io::Result<()> {
    Ok(())
}

/// Does something and wipes the stack that it used. For work on secrets in a thread that lives on.
pub fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let outcome = below(work);
    wipe();
    outcome
}

/// In a frame of its own, where [`wipe`] has its frame too.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Wipes what work that is done has left on the stack, below its caller.
#[inline(never)]
#[allow(clippy::large_stack_arrays, reason = "the stack is what it is about")]
pub fn wipe() {
    let mut used = [0_u8; STACK];
    used.zeroize();
}

/// What a panic hook may say: where it happened, and a message only when the source wrote it down word by word. One that
/// was put together at run time may quote a text that was cut in the wrong place, or an error that repeats its input.
pub fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    format!("panicked at {place}: {}", message(panic.payload()))
}

fn message(payload: &dyn Any) -> &'static str {
    let literal = payload.downcast_ref::<&'static str>().copied();
    literal.unwrap_or("the message is withheld, since it may hold what was being worked on")
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{catch_unwind, set_hook, take_hook},
        sync::{Arc, Mutex},
    };

    use super::*;

    /// That both programs do so is shown by their own tests.
    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_nothing_to_dump() {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit};

        keep_memory_private().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    }

    #[test]
    fn a_panic_does_not_repeat_what_was_being_worked_on() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (hears, usual) = (said.clone(), take_hook());
        set_hook(Box::new(move |info| hears.lock().unwrap().push(told(info))));
        let value = "hünter2".to_owned();
        // One that std raises, quoting the text; a library's error; and fixed words.
        let _ = catch_unwind(|| value[..2].len());
        let _ = catch_unwind(|| serde_json::from_str::<u8>("\"hünter2\"").unwrap());
        let _ = catch_unwind(|| panic!("fixed words"));
        set_hook(usual);
        // Another test may have panicked meanwhile.
        let said: Vec<_> = said.lock().unwrap().iter().filter(|it| it.contains("guard.rs")).cloned().collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[..2].iter().all(|it| it.contains("withheld") && !it.contains("nter2")), "{said:?}");
        assert!(said[2].ends_with(": fixed words"), "{said:?}");
    }
}
