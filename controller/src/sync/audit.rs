//! What had the cluster changed, and how: what each pass is for, and what was done for a revision until it is applied
//! whole. It becomes lines of the log, an Event and an entry of the history. Pure: the clock is an argument.

use crds::{
    GitSync,
    git_sync::{APPROVE, HistoryEntry, ROLLBACK},
    sync::history::{Counts, Trigger, UnderWay},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::{fetch::hook, plan::Why, render::Desired, source::Description};

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum How {
    /// It was not there.
    Created,
    /// It was there, and is as Git says now.
    Changed,
    /// It could not be changed, and was made anew.
    Recreated,
    /// Others had changed or deleted it.
    Healed,
    /// It is a hook.
    Ran,
    /// It is not in Git any more.
    Deleted,
    /// It was deleted, to be made anew: what comes next may fail.
    #[strum(serialize = "deleted")]
    Cleared,
    /// It was to be changed, and whether it was nobody heard.
    Unheard,
}

impl How {
    /// As the metric of steps has it; none for what is no step that came to its end.
    pub fn step(self) -> Option<&'static str> {
        match self {
            Self::Created | Self::Changed | Self::Recreated => Some(Why::Apply.into()),
            Self::Healed => Some(Why::Heal.into()),
            Self::Ran => Some(Why::Run.into()),
            Self::Deleted => Some("prune"),
            Self::Cleared | Self::Unheard => None,
        }
    }
}

/// One pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// What it is for.
    pub trigger: Trigger,
    /// When it began.
    pub began: Timestamp,
}

/// What of a GitSync is somebody's word to the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    generation: Option<i64>,
    leave: [Option<String>; 2],
}

/// A revision on its way into the cluster.
#[derive(Clone, Debug)]
struct Way {
    revision: String,
    pass: Pass,
}

/// What was done for a revision.
#[derive(Clone, Debug)]
pub struct Tally {
    way: Way,
    counts: Counts,
    /// Whether there is something that no Event has told.
    untold: bool,
    /// Whether the revision is applied whole.
    whole: bool,
}

/// What is remembered of one GitSync between passes.
#[derive(Debug, Default)]
pub struct Record {
    word: Option<Word>,
    /// The newest revision, until it is applied whole.
    newest: Option<Way>,
    /// The revision that is applied: an older one, while the newest cannot be rendered.
    tally: Option<Tally>,
}

impl Word {
    fn of(sync: &GitSync) -> Self {
        let said = |annotation| sync.annotations().get(annotation).cloned();
        Self { generation: sync.metadata.generation, leave: [said(APPROVE), said(ROLLBACK)] }
    }
}

impl Pass {
    /// The pass that takes in what was fetched is the one that had it fetched, unless somebody has asked for something
    /// else since.
    #[must_use]
    pub fn after(self, fetch: Self) -> Self {
        if asks_nothing(self.trigger) || self.trigger == fetch.trigger { fetch } else { self }
    }
}

fn asks_nothing(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::Start | Trigger::Interval | Trigger::Drift)
}

impl Way {
    /// The same way goes on, until somebody asks anew.
    fn next(before: Option<Self>, revision: &str, pass: Pass) -> Self {
        let asks_nothing = asks_nothing(pass.trigger);
        let is_deletion = |way: &Self| [way.pass.trigger, pass.trigger] == [Trigger::Deletion; 2];
        let goes_on = |way: &Self| way.revision == revision && (asks_nothing || is_deletion(way));
        before.filter(goes_on).unwrap_or_else(|| Self { revision: revision.to_owned(), pass })
    }
}

impl Record {
    /// Goes on where another process ended.
    pub fn resumed(UnderWay { revision, trigger, since, counts }: &UnderWay) -> Self {
        let way = Way { revision: revision.clone(), pass: Pass { trigger: *trigger, began: since.0 } };
        let tally = Tally { way: way.clone(), counts: *counts, untold: false, whole: false };
        Self { word: None, newest: Some(way), tally: Some(tally) }
    }

    /// What a later process needs to know.
    pub fn under_way(&self) -> Option<UnderWay> {
        let Tally { way: Way { revision, pass }, counts, .. } = self.tally.as_ref().filter(|tally| !tally.whole)?;
        let (revision, trigger, since) = (revision.clone(), pass.trigger, Time(pass.began));
        Some(UnderWay { revision, trigger, since, counts: *counts })
    }

    /// What a pass is for that begins now. `observed` is the generation that was last handled, by whomever; `is_due` says
    /// whether it is about what is fetched, and `request` who asked for that.
    pub fn trigger(&self, sync: &GitSync, observed: Option<i64>, is_due: bool, request: Option<&str>) -> Trigger {
        let now = Word::of(sync);
        match &self.word {
            None if now.generation == observed => Trigger::Start,
            None => Trigger::SpecChange,
            Some(word) if word.generation != now.generation => Trigger::SpecChange,
            Some(word) => match request {
                Some(request) if request.starts_with(hook::REQUEST) => Trigger::Webhook,
                Some(_) => Trigger::Annotation,
                None if word.leave != now.leave => Trigger::Annotation,
                None if is_due => Trigger::Interval,
                None => Trigger::Drift,
            },
        }
    }

    /// The newest revision was looked at.
    pub fn attempted(&mut self, sync: &GitSync, revision: &str, pass: Pass) {
        self.word = Some(Word::of(sync));
        self.newest = Some(Way::next(self.newest.take(), revision, pass));
    }

    /// A revision is about to be applied.
    pub fn applying(&mut self, revision: &str, pass: Pass) {
        let is_deletion = |pass: Pass| pass.trigger == Trigger::Deletion;
        let goes_on = |tally: &Tally| {
            tally.way.revision == revision && !tally.whole && is_deletion(tally.way.pass) == is_deletion(pass)
        };
        let before = self.tally.take().filter(goes_on);
        let (counts, untold) = before.as_ref().map_or_else(Default::default, |it| (it.counts, it.untold));
        let way = self.newest.clone().filter(|way| way.revision == revision);
        let way = way.unwrap_or_else(|| Way::next(before.map(|before| before.way), revision, pass));
        self.tally = Some(Tally { way, counts, untold, whole: false });
    }

    /// Objects were changed. Answers what for, drift apart.
    pub fn did(&mut self, acts: impl Iterator<Item = How>) -> Trigger {
        let Some(tally) = &mut self.tally else { return Trigger::Drift };
        for how in acts {
            let counts = &mut tally.counts;
            match how {
                How::Created => counts.created += 1,
                How::Changed | How::Recreated => counts.changed += 1,
                How::Deleted => counts.deleted += 1,
                // Drift has an Event of its own, and a hook is no object of the revision.
                How::Healed | How::Ran | How::Cleared | How::Unheard => continue,
            }
            tally.untold = true;
        }
        tally.way.pass.trigger
    }

    /// The revision is applied whole. An `entry` that is new to the history is filled in; answers what had that applied.
    pub fn whole(
        &mut self,
        entry: Option<&mut HistoryEntry>,
        desired: &[Desired],
        said: &Description,
        now: Timestamp,
    ) -> Option<Trigger> {
        let tally = self.tally.as_mut()?;
        self.newest = self.newest.take().filter(|way| way.revision != tally.way.revision);
        tally.whole = true;
        let kept = desired.iter().filter(|object| object.marks.hook.is_none()).count();
        tally.counts.unchanged = kept.saturating_sub(tally.counts.created + tally.counts.changed);
        let entry = entry?;
        let Pass { trigger, began } = tally.way.pass;
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        (entry.author, entry.subject) = (some(&said.author), some(&said.subject));
        entry.trigger = Some(trigger);
        entry.duration = Some(seconds(now.duration_since(began)));
        entry.counts = Some(tally.counts);
        entry.trigger
    }

    /// What no Event has told, once; of what is whole nothing is kept.
    pub fn untold(&mut self) -> Option<Tally> {
        let tally = self.tally.as_mut()?;
        let found = std::mem::take(&mut tally.untold).then(|| tally.clone());
        if tally.whole {
            self.tally = None;
        }
        found
    }
}

impl Tally {
    /// The reason of the Event that tells it.
    pub fn reason(&self) -> &'static str {
        match (self.way.pass.trigger, self.whole) {
            (Trigger::Deletion, _) => "Deleted",
            (_, true) => "Applied",
            (_, false) => "PartlyApplied",
        }
    }

    /// For people.
    pub fn message(&self, identity: &str, said: &Description) -> String {
        let Self { way: Way { revision, pass }, counts, .. } = self;
        let Description { author, subject, .. } = said;
        let commit = if author.is_empty() { String::new() } else { format!("; {author}: {subject}") };
        format!("{revision}: {counts}; {}, as {identity}{commit}", pass.trigger)
    }
}

/// As Go writes it.
fn seconds(time: SignedDuration) -> String {
    format!("{:.3}s", time.as_secs_f64().max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::git_sync::GitSyncSpec;

    const A: &str = "main@sha1:a";
    const B: &str = "main@sha1:b";

    fn sync(generation: i64, annotations: &[(&str, &str)]) -> GitSync {
        let mut sync = GitSync::new("app", GitSyncSpec::default());
        sync.metadata.generation = Some(generation);
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        sync.annotations_mut().extend(annotations);
        sync
    }

    fn pass(trigger: Trigger) -> Pass {
        Pass { trigger, began: Timestamp::UNIX_EPOCH }
    }

    fn entry(record: &mut Record, now: Timestamp) -> HistoryEntry {
        let mut entry = HistoryEntry::new(A.to_owned(), String::new(), Time(Timestamp::UNIX_EPOCH));
        let said = Description { author: "Ada".to_owned(), subject: "web".to_owned(), ..Description::default() };
        record.whole(Some(&mut entry), &[], &said, now);
        entry
    }

    #[test]
    fn each_pass_has_a_reason() {
        let mut record = Record::default();
        assert_eq!(record.trigger(&sync(1, &[]), None, true, None), Trigger::SpecChange, "it is new");
        assert_eq!(record.trigger(&sync(1, &[]), Some(1), true, None), Trigger::Start, "it was there before we were");
        record.attempted(&sync(1, &[]), A, pass(Trigger::Start));
        assert_eq!(record.trigger(&sync(1, &[]), Some(1), true, None), Trigger::Interval);
        assert_eq!(record.trigger(&sync(1, &[]), Some(1), false, None), Trigger::Drift);
        assert_eq!(record.trigger(&sync(2, &[]), Some(1), false, None), Trigger::SpecChange);
        let requested = |request| record.trigger(&sync(1, &[]), Some(1), true, Some(request));
        assert_eq!(requested("now"), Trigger::Annotation);
        assert_eq!(requested("webhook 2026-01-01T00:00:00Z"), Trigger::Webhook);
        let asked = |key, value| record.trigger(&sync(1, &[(key, value)]), Some(1), true, None);
        assert_eq!([asked(APPROVE, "p"), asked(ROLLBACK, "a")], [Trigger::Annotation; 2]);
    }

    #[test]
    fn what_a_fetch_brings_is_by_whom_it_was_asked_for() {
        let asked = Pass { trigger: Trigger::Webhook, began: Timestamp::UNIX_EPOCH };
        let after = |trigger| {
            let pass = Pass { trigger, began: Timestamp::MAX }.after(asked);
            (pass.trigger, pass.began == asked.began)
        };
        // Since then others may have had it looked at, and what moves in the cluster asks for nothing.
        assert_eq!([Trigger::Interval, Trigger::Drift, Trigger::Webhook].map(after), [(Trigger::Webhook, true); 3]);
        assert_eq!(after(Trigger::SpecChange), (Trigger::SpecChange, false));
    }

    #[test]
    fn a_revision_is_told_with_what_brought_it_however_many_passes_it_takes() {
        let mut record = Record::default();
        record.attempted(&sync(1, &[]), A, pass(Trigger::Webhook));
        record.applying(A, pass(Trigger::Webhook));
        assert_eq!(record.did([How::Created, How::Created, How::Healed, How::Ran].into_iter()), Trigger::Webhook);
        let told = record.untold().unwrap();
        assert_eq!((told.reason(), told.counts.created), ("PartlyApplied", 2));
        assert!(record.untold().is_none(), "told once");
        // It waits for something, and goes on when that moves.
        for trigger in [Trigger::Interval, Trigger::Drift] {
            record.attempted(&sync(1, &[]), A, pass(trigger));
            record.applying(A, pass(trigger));
        }
        record.did([How::Changed, How::Recreated, How::Deleted].into_iter());
        let entry = entry(&mut record, Timestamp::from_millisecond(1250).unwrap());
        assert_eq!((entry.trigger, entry.duration.as_deref()), (Some(Trigger::Webhook), Some("1.250s")));
        assert_eq!(entry.counts, Some(Counts { created: 2, changed: 2, deleted: 1, unchanged: 0 }));
        let told = record.untold().unwrap();
        let said = Description { author: "Ada".to_owned(), subject: "web".to_owned(), ..Description::default() };
        let counts = "2 created, 2 changed, 1 deleted, 0 unchanged";
        assert_eq!(told.message("me", &said), format!("{A}: {counts}; Webhook, as me; Ada: web"));
        assert_eq!(told.message("me", &Description::default()), format!("{A}: {counts}; Webhook, as me"));
        assert_eq!(told.reason(), "Applied");

        // Nothing is carried over.
        record.attempted(&sync(1, &[]), A, pass(Trigger::Interval));
        record.applying(A, pass(Trigger::Interval));
        record.whole(None, &[], &said, Timestamp::UNIX_EPOCH);
        assert!(record.untold().is_none(), "nothing happened");
    }

    #[test]
    fn while_the_newest_does_not_render_the_older_one_has_its_own_reason() {
        let mut record = Record::default();
        record.attempted(&sync(1, &[]), B, pass(Trigger::Webhook));
        record.applying(A, pass(Trigger::Drift));
        assert_eq!(record.did([How::Changed].into_iter()), Trigger::Drift);
        entry(&mut record, Timestamp::UNIX_EPOCH);
        assert_eq!(record.untold().unwrap().reason(), "Applied");
        record.attempted(&sync(1, &[]), B, pass(Trigger::Drift));
        record.applying(B, pass(Trigger::Drift));
        assert_eq!(record.did(std::iter::empty()), Trigger::Webhook);
        // What was begun is no part of what is deleted.
        record.did([How::Created].into_iter());
        record.attempted(&sync(1, &[]), B, pass(Trigger::Deletion));
        record.applying(B, pass(Trigger::Deletion));
        assert_eq!(record.did([How::Deleted].into_iter()), Trigger::Deletion);
        let told = record.untold().unwrap();
        assert_eq!((told.reason(), told.counts), ("Deleted", Counts { deleted: 1, ..Counts::default() }));
    }

    #[test]
    fn a_restart_counts_on() {
        let mut record = Record::default();
        record.attempted(&sync(1, &[]), A, pass(Trigger::Webhook));
        record.applying(A, pass(Trigger::Webhook));
        record.did([How::Created, How::Deleted].into_iter());
        let before = record.under_way().unwrap();

        let mut record = Record::resumed(&before);
        let start = Pass { trigger: record.trigger(&sync(1, &[]), Some(1), true, None), began: Timestamp::MAX };
        record.attempted(&sync(1, &[]), A, start);
        record.applying(A, start);
        assert_eq!(record.under_way(), Some(before.clone()));
        record.did([How::Changed].into_iter());
        let entry = entry(&mut record, Timestamp::from_second(60).unwrap());
        assert_eq!((entry.trigger, entry.duration.as_deref()), (Some(Trigger::Webhook), Some("60.000s")));
        assert_eq!(entry.counts, Some(Counts { created: 1, changed: 1, deleted: 1, unchanged: 0 }));
        assert_eq!(record.under_way(), None, "it is applied whole");

        // Another revision begins anew, and so does what was changed meanwhile.
        let mut record = Record::resumed(&before);
        record.attempted(&sync(1, &[]), B, start);
        record.applying(B, start);
        let under_way = record.under_way().unwrap();
        assert_eq!((under_way.trigger, under_way.counts), (Trigger::Start, Counts::default()));
        let record = Record::resumed(&before);
        assert_eq!(record.trigger(&sync(2, &[]), Some(1), true, None), Trigger::SpecChange);
    }

    /// What stays the same is not written again and again.
    #[test]
    fn what_is_tried_again_began_when_it_was_tried_first() {
        let at = |trigger, second| Pass { trigger, began: Timestamp::from_second(second).unwrap() };
        let mut record = Record::default();
        for (newest, trigger) in [(B, Trigger::Interval), (A, Trigger::Deletion)] {
            let mut seen = Vec::new();
            for second in 0..3 {
                record.attempted(&sync(1, &[]), newest, at(trigger, second));
                record.applying(A, at(trigger, second));
                seen.push(record.under_way());
            }
            assert!(seen.iter().all(|it| *it == seen[0]), "{seen:?}");
        }
    }

    #[test]
    fn leave_that_is_given_later_is_what_had_it_applied() {
        let mut record = Record::default();
        record.attempted(&sync(1, &[]), B, pass(Trigger::Interval));
        record.applying(B, pass(Trigger::Interval));
        record.attempted(&sync(1, &[]), B, pass(Trigger::Annotation));
        record.applying(B, pass(Trigger::Annotation));
        assert_eq!(record.did(std::iter::empty()), Trigger::Annotation);
    }
}
