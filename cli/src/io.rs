//! The process's surroundings as a value, so that a test can be one. Nothing else in this package names the standard
//! streams, asks whether they are terminals, or reads the clock.

use std::{
    fs,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::text::{self, Encoding, NotText};

/// Where a command reads, writes and tells.
#[allow(clippy::struct_excessive_bools, reason = "facts about three streams")]
pub struct Io<'a> {
    /// Input.
    pub stdin: Box<dyn Read + 'a>,
    /// Results, and nothing but results.
    pub stdout: Box<dyn Write + 'a>,
    /// Errors; on a terminal also remarks.
    pub stderr: Box<dyn Write + 'a>,
    /// Somebody would have to type the input.
    pub stdin_is_terminal: bool,
    /// Somebody reads along: it is a terminal, or remarks were asked for.
    pub stderr_is_read: bool,
    /// Whether stderr may be coloured.
    pub colour: bool,
    /// Whether stdout may be coloured.
    pub colour_stdout: bool,
    /// Columns of the terminal that stdout is, if it is one.
    pub width: Option<usize>,
    /// The time of the run.
    pub now: Timestamp,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("read {}", path.display())]
    NotText { path: PathBuf, source: NotText },
}

/// Names standard input where a path is expected, on every system.
const STDIN: &str = "/dev/stdin";

const DIM: &str = "\u{1b}[2m";
const RED: &str = "\u{1b}[1;31m";
const RESET: &str = "\u{1b}[0m";

impl Io<'static> {
    /// The real ones.
    pub fn std() -> Self {
        let stderr_is_terminal = io::stderr().is_terminal();
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let may_colour = unset("NO_COLOR") && !dumb;
        Self {
            stdin: Box::new(io::stdin()),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            stdin_is_terminal: io::stdin().is_terminal(),
            stderr_is_read: stderr_is_terminal,
            colour: stderr_is_terminal && may_colour,
            colour_stdout: io::stdout().is_terminal() && may_colour,
            width: Term::stdout().size_checked().map(|(_, columns)| columns.into()),
            now: Timestamp::now(),
        }
    }
}

impl Io<'_> {
    /// Says something to a person; a script sees it only when it asked for it.
    pub fn remark(&mut self, text: &str) {
        if self.stderr_is_read {
            let (on, off) = if self.colour { (DIM, RESET) } else { ("", "") };
            self.complain(&format!("{on}{text}{off}"));
        }
    }

    /// Says what went wrong.
    pub fn error(&mut self, text: &str) {
        let (on, off) = if self.colour { (RED, RESET) } else { ("", "") };
        self.complain(&format!("{on}error:{off} {text}"));
    }

    /// Says what to do about it.
    pub fn hint(&mut self, text: &str) {
        self.complain(text);
    }

    /// Asks for input when somebody has to type it.
    pub fn prompt(&mut self, text: &str) {
        if self.stdin_is_terminal {
            self.complain(text);
        }
    }

    /// Asks a question that [`Self::answer`] reads the answer to.
    pub fn ask_line(&mut self, text: &str) {
        if self.stdin_is_terminal {
            // Where it cannot be asked there is no answer either.
            let _ = write!(self.stderr, "{text}").and_then(|()| self.stderr.flush());
        }
    }

    /// A line that somebody types; `None` where there is nobody.
    pub fn answer(&mut self) -> io::Result<Option<String>> {
        if !self.stdin_is_terminal {
            return Ok(None);
        }
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.stdin.read(&mut byte)? > 0 && byte != *b"\n" {
            line.extend(byte);
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    /// Warns of what was done nevertheless.
    pub fn warning(&mut self, text: &str) {
        self.complain(&format!("warning: {text}"));
    }

    /// All of a file or, without one, of standard input.
    pub fn read(&mut self, path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        if let Some(path) = path.filter(|path| *path != Path::new(STDIN)) {
            return read_file(path);
        }
        let mut bytes = Zeroizing::new(Vec::new());
        let outcome = self.stdin.read_to_end(&mut bytes);
        outcome.map_err(|source| ReadError::Open { path: STDIN.into(), source })?;
        Ok(bytes)
    }

    /// As [`Io::read`], but text in any encoding.
    pub fn read_text(&mut self, path: Option<&Path>) -> Result<(Zeroizing<String>, Encoding), ReadError> {
        decode(&self.read(path)?, path.unwrap_or(Path::new(STDIN)))
    }

    /// A bar for long work, on a terminal only.
    pub fn progress(&self, steps: usize) -> ProgressBar {
        if !self.stderr_is_read {
            return ProgressBar::hidden();
        }
        // It hides itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {eta} left");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// What happens while one waits, on a terminal only.
    pub fn spinner(&self) -> ProgressBar {
        if !self.stderr_is_read {
            return ProgressBar::hidden();
        }
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
    }

    /// A line on stderr. If even that fails there is nobody left to tell.
    fn complain(&mut self, line: &str) {
        let _ = writeln!(self.stderr, "{line}");
    }
}

/// Asks a person for what is not shown while it is typed. For callbacks too, which have no [`Io`].
pub fn ask(prompt: &str) -> io::Result<SecretString> {
    let terminal = Term::stderr();
    if !terminal.is_term() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there is no terminal"));
    }
    terminal.write_str(prompt)?;
    terminal.read_secure_line().map(SecretString::from)
}

/// All of a file. For whom has no [`Io`]: work that runs beside it.
pub fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let read = fs::read(path).map_err(|source| ReadError::Open { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(read))
}

/// As [`read_file`], but text in any encoding.
pub fn read_text_file(path: &Path) -> Result<(Zeroizing<String>, Encoding), ReadError> {
    decode(&read_file(path)?, path)
}

fn decode(bytes: &[u8], path: &Path) -> Result<(Zeroizing<String>, Encoding), ReadError> {
    text::decode(bytes).map_err(|source| ReadError::NotText { path: path.to_owned(), source })
}
