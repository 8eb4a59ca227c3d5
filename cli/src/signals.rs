//! Signals that end a program, for work that has to clean up behind it. Whoever has listened once is not ended by them
//! any more, and has to listen until its own end.

use std::io;

/// Whom somebody means who presses Ctrl-C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// This program.
    Ours,
    /// One that this one waits for.
    Theirs,
}

/// Listens from now on, until this program is to end.
#[cfg(unix)]
pub fn end(pressed: Pressed) -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv(), if pressed == Pressed::Ours => {}
            _ = quit.recv(), if pressed == Pressed::Ours => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Listens from now on, until this program is to end.
#[cfg(windows)]
pub fn end(pressed: Pressed) -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::windows;
    let (mut interrupt, mut quit) = (windows::ctrl_c()?, windows::ctrl_break()?);
    let (mut hangup, mut terminate) = (windows::ctrl_close()?, windows::ctrl_shutdown()?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv(), if pressed == Pressed::Ours => {}
            _ = quit.recv(), if pressed == Pressed::Ours => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
