//! A compiled pattern whose searches are paid for by what they read. To know where one match ends, all the rest may have
//! to be read, for each match anew; and a pattern that needs more states than there is room for makes them again and again.
//! Neither can be told beforehand, and the `regex` crate tells neither afterwards: so its engine is driven from here.

use std::ops::Range;

use regex_automata::{
    Anchored, Input,
    hybrid::{
        dfa,
        regex::{Cache, Regex},
    },
    nfa::thompson::{self, pikevm::PikeVM},
    util::{captures::Captures, syntax},
};

use super::super::value::{Outcome, Run, STEP, TOO_MUCH_WORK};

/// Memory of a compiled pattern, and of the states that are made of it; Go's own bound is a thousand repetitions.
const COMPILED: usize = 1 << 20;
/// What is read for one [`STEP`].
const READ: usize = 64;
/// Groups are found by following each of a pattern's places; so many of them cost what one byte made does.
const PLACES: usize = 8;

pub(super) struct Pattern {
    regex: Regex,
    cache: Cache,
    /// For states made so far.
    paid: usize,
}

fn syntax() -> syntax::Config {
    syntax::Config::new().utf8(false)
}

fn compiled() -> thompson::Config {
    thompson::Config::new().utf8(false).nfa_size_limit(Some(COMPILED))
}

impl Pattern {
    /// `None` for what is no pattern, or too large.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let states = dfa::Config::new().cache_capacity(COMPILED).skip_cache_capacity_check(true);
        let regex = Regex::builder().syntax(syntax()).thompson(compiled()).dfa(states).build(pattern).ok()?;
        let cache = regex.create_cache();
        Some(Self { regex, cache, paid: 0 })
    }

    /// The first match from here on.
    pub(super) fn find(&mut self, run: &Run, text: &[u8], from: usize) -> Outcome<Option<Range<usize>>> {
        let Some(end) = self.end(run, text, from)? else { return Ok(None) };
        run.charge((end - from) / READ * STEP)?;
        // Behind the last match, so no byte is read twice.
        let backwards = Input::new(text).range(from..end).anchored(Anchored::Yes);
        let start = self.regex.reverse().try_search_rev(self.cache.reverse_mut(), &backwards);
        self.pay(run)?;
        let start = start.map_err(|_| TOO_MUCH_WORK)?.map_or(end, |start| start.offset());
        Ok(Some(start..end))
    }

    /// Where the first match ends. Whether one does is known one byte later.
    fn end(&mut self, run: &Run, text: &[u8], from: usize) -> Outcome<Option<usize>> {
        let (dfa, input) = (self.regex.forward(), Input::new(text).range(from..));
        let started = dfa.start_state_forward(self.cache.forward_mut(), &input);
        let mut state = started.map_err(|_| TOO_MUCH_WORK)?;
        let (mut end, mut at) = (None, from);
        for part in text.get(from..).unwrap_or_default().chunks(READ) {
            run.charge(STEP)?;
            for byte in part {
                let next = self.regex.forward().next_state(self.cache.forward_mut(), state, *byte);
                state = next.map_err(|_| TOO_MUCH_WORK)?;
                if state.is_match() {
                    end = Some(at);
                } else if state.is_dead() {
                    self.pay(run)?;
                    return Ok(end);
                } else if state.is_quit() {
                    return Err(TOO_MUCH_WORK);
                }
                at += 1;
            }
            self.pay(run)?;
        }
        let last = self.regex.forward().next_eoi_state(self.cache.forward_mut(), state);
        if last.map_err(|_| TOO_MUCH_WORK)?.is_match() {
            end = Some(text.len());
        }
        Ok(end)
    }

    /// For the states that were made since, and thrown away again for want of room.
    fn pay(&mut self, run: &Run) -> Outcome<()> {
        let (forward, reverse) = self.cache.as_parts();
        let made = self.cache.memory_usage() + COMPILED * (forward.clear_count() + reverse.clear_count());
        let owed = made.saturating_sub(self.paid);
        self.paid += owed;
        run.charge(owed)
    }

    /// All matches, none of which overlaps another.
    pub(super) fn matches(mut self, run: &Run, text: &[u8]) -> impl Iterator<Item = Outcome<Range<usize>>> {
        let (mut from, mut last) = (0, None);
        std::iter::from_fn(move || {
            loop {
                if from > text.len() {
                    return None;
                }
                match self.find(run, text, from).transpose()? {
                    // Nothing, where the last match ended.
                    Ok(found) if found.is_empty() && last == Some(found.end) => from = found.end + 1,
                    Ok(found) => {
                        (from, last) = (found.end, Some(found.end));
                        return Some(Ok(found));
                    }
                    Err(why) => return Some(Err(why)),
                }
            }
        })
    }
}

/// What finds the groups of a match.
pub(super) struct Groups {
    vm: PikeVM,
    cache: thompson::pikevm::Cache,
    captures: Captures,
}

impl Groups {
    /// See [`Pattern::new`].
    pub(super) fn new(run: &Run, pattern: &str) -> Outcome<Option<Self>> {
        let vm = PikeVM::builder().syntax(syntax()).thompson(compiled()).build(pattern);
        let Ok(vm) = vm else { return Ok(None) };
        // Room for where each group begins and ends, as seen from each place, for this byte and the next.
        let nfa = vm.get_nfa();
        run.charge((2 * size_of::<usize>() * nfa.states().len()).saturating_mul(nfa.group_info().slot_len()))?;
        let (cache, captures) = (vm.create_cache(), vm.create_captures());
        Ok(Some(Self { vm, cache, captures }))
    }

    /// A replacement with what it names in it.
    pub(super) fn expand(
        &mut self,
        run: &Run,
        text: &[u8],
        found: Range<usize>,
        replacement: &[u8],
    ) -> Outcome<Vec<u8>> {
        run.charge((found.len() + 1).saturating_mul(self.vm.get_nfa().states().len()) / PLACES)?;
        let input = Input::new(text).range(found).anchored(Anchored::Yes);
        self.vm.search(&mut self.cache, &input, &mut self.captures);
        let mut expanded = Vec::new();
        self.captures.interpolate_bytes_into(text, replacement, &mut expanded);
        Ok(expanded)
    }
}
