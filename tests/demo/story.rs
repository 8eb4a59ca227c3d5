//! How the demo speaks: headings, commands, what they printed, and what a wait took. Colours and moving lines are for a
//! terminal only. The one place that writes to stdout; it must not know what is told.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use console::{Term, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Longer words, which here are ciphertext, are cut to this.
const LONGEST_WORD: usize = 72;

/// The teller; counts the steps.
pub struct Story {
    out: Term,
    number: Cell<usize>,
    heading: RefCell<String>,
}

impl Story {
    pub fn new() -> Self {
        Self { out: Term::stdout(), number: Cell::new(0), heading: RefCell::new("Getting ready".to_owned()) }
    }

    /// The next step: what happens, and why.
    pub fn step(&self, heading: &str, why: &str) -> Result<()> {
        self.number.set(self.number.get() + 1);
        let heading = format!("{}. {heading}", self.number.get());
        self.say(format!("\n{}", style(&heading).bold()))?;
        self.heading.replace(heading);
        for line in why.lines() {
            self.say(style(line).dim())?;
        }
        Ok(())
    }

    /// A line as it is.
    pub fn say(&self, line: impl std::fmt::Display) -> Result<()> {
        Ok(self.out.write_line(&line.to_string())?)
    }

    /// A command as one would type it.
    pub fn command(&self, line: &str) -> Result<()> {
        self.say(format!("  {} {}", style("$").cyan(), style(line).cyan().bold()))
    }

    /// What a command printed.
    pub fn output(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.say(format!("  {}", shortened(line)).trim_end()))
    }

    /// Something that was waited for has come.
    pub fn done(&self, what: &str, took: Duration) -> Result<()> {
        self.proven(&format!("{what} after {:.1} s", took.as_secs_f32()))
    }

    /// Something that was claimed holds.
    pub fn proven(&self, what: &str) -> Result<()> {
        self.say(format!("  {} {what}", style("✓").green()))
    }

    /// Does some work; a terminal shows meanwhile what is waited for, and for how long.
    pub async fn waiting<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
        let since = Instant::now();
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_message(what.to_owned());
        let looks = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})");
        spinner.set_style(looks.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        // What is over in a blink needs no line.
        let show = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            spinner.enable_steady_tick(Duration::from_millis(120));
            std::future::pending().await
        };
        let worked = tokio::select! { worked = work => worked, never = show => never };
        spinner.finish_and_clear();
        Ok((worked?, since.elapsed()))
    }

    /// The loud end, on stderr: a step did not do what it says.
    pub fn failed(&self, error: &Error) {
        let place = style(format!("FAILED: {}", self.heading.borrow())).for_stderr().red().bold();
        // Nobody to tell is no reason to panic: the exit status says it too.
        let _ = Term::stderr().write_line(&format!("\n{place}\n{error:#}"));
    }
}

fn shortened(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let long = word.chars().count() > LONGEST_WORD;
        if long { word.chars().take(LONGEST_WORD - 1).chain(['…']).collect() } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}
