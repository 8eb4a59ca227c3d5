//! What each GitSync asks for, as it last rendered: so that an object that moves in Git from one to another is handed over,
//! and neither deleted nor fought for. Only within a namespace: no tenant may keep alive what another deletes. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crds::GitSync;
use kube::ResourceExt as _;

use super::{Key, key, object::ObjectId, plan::LiveObject, render::Desired, rollback};

/// What one asks for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cluster; `None` for this one.
    pub server: Option<String>,
    /// As branch@sha1:commit.
    pub revision: String,
    /// The objects.
    pub desired: Arc<Vec<Desired>>,
}

/// What a plan is to know of the others.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Objects that they have, and ask for no more.
    pub freed: HashSet<ObjectId>,
    /// Objects that go here, and that they ask for.
    pub wanted: HashSet<ObjectId>,
    /// Those that have not looked at the revision yet, and may ask for what goes.
    pub early: Vec<String>,
}

/// What all ask for.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Key, Claim>);

impl Claims {
    /// It asks for that from now on.
    pub fn claim(&mut self, key: Key, claim: Claim) {
        self.0.insert(key, claim);
    }

    /// All others are gone.
    pub fn keep(&mut self, stays: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| stays(key));
    }

    /// Whether another GitSync follows the same to the same cluster, and has not come as far as this revision: it may ask
    /// for what goes.
    pub fn is_early(&self, other: &GitSync, sync: &GitSync, revision: &str) -> bool {
        let (theirs, ours) = (&other.spec, &sync.spec);
        let is_near = other.namespace() == sync.namespace() && theirs.kube_config == ours.kube_config;
        let is_idle = theirs.suspend || other.metadata.deletion_timestamp.is_some();
        let claim = self.0.get(&key(other));
        let has_tried = other.status.as_ref().is_some_and(|status| {
            rollback::holding(status).is_some() || status.last_attempted_revision.as_deref() == Some(revision)
        });
        // What another process has tried is no claim in this one.
        let has_come = claim.is_some_and(|claim| claim.revision == revision || has_tried);
        is_near && theirs.source.follows_same(&ours.source) && !is_idle && !has_come
    }

    /// Of objects that others have, those that they ask for no more. Of one that has not rendered yet nothing is known.
    pub fn freed(&self, me: &Key, live: &HashMap<ObjectId, LiveObject>) -> HashSet<ObjectId> {
        let of_others = live.iter().filter(|(_, live)| live.owner != *me && live.owner.0 == me.0);
        let free = of_others.filter(|(id, live)| {
            let claim = self.0.get(&live.owner).filter(|claim| claim.server == self.server(me));
            claim.is_some_and(|claim| !claim.desired.iter().any(|it| it.id == **id))
        });
        free.map(|(id, _)| id.clone()).collect()
    }

    /// Of objects that go, those that another asks for.
    pub fn wanted(&self, me: &Key, going: &HashSet<&ObjectId>) -> HashSet<ObjectId> {
        if going.is_empty() {
            return HashSet::new();
        }
        let others =
            self.0.iter().filter(|(key, claim)| *key != me && key.0 == me.0 && claim.server == self.server(me));
        let asked = others.flat_map(|(_, claim)| claim.desired.iter()).filter(|object| !object.marks.ignored);
        asked.map(|object| &object.id).filter(|id| going.contains(id)).cloned().collect()
    }

    fn server(&self, key: &Key) -> Option<String> {
        self.0.get(key).and_then(|claim| claim.server.clone())
    }
}

#[cfg(test)]
mod tests {
    use crds::git_sync::{GitSyncSpec, GitSyncStatus, KubeConfigReference};

    use super::{
        super::{ignore::Ignored, marks::Marks, object::Manifest, render::Place},
        *,
    };

    fn key(name: &str) -> Key {
        ("ns".to_owned(), name.to_owned())
    }

    #[test]
    fn who_has_not_come_as_far_is_waited_for() {
        let sync = |name: &str, change: fn(&mut GitSync)| {
            let mut sync = GitSync::new(name, GitSyncSpec::default());
            sync.metadata.namespace = Some("ns".to_owned());
            change(&mut sync);
            sync
        };
        let me = sync("me", |_| {});
        let mut claims = Claims::default();
        let revision = "main@sha1:1";
        let tried = |other: &mut GitSync| {
            let status =
                GitSyncStatus { last_attempted_revision: Some("main@sha1:1".into()), ..GitSyncStatus::default() };
            other.status = Some(status);
        };
        assert!(claims.is_early(&sync("other", |_| {}), &me, revision));
        assert!(claims.is_early(&sync("other", tried), &me, revision), "another process has rendered it");
        for (why, change) in [
            ("another tenant", (|it| it.metadata.namespace = Some("x".into())) as fn(&mut GitSync)),
            ("another repository", |it| it.spec.source.url = "https://x".into()),
            ("another branch", |it| it.spec.source.reference.branch = Some("x".into())),
            ("another cluster", |it| it.spec.kube_config = Some(KubeConfigReference::default())),
            ("suspended", |it| it.spec.suspend = true),
        ] {
            assert!(!claims.is_early(&sync("other", change), &me, revision), "{why}");
        }
        claims.claim(key("other"), Claim { revision: "main@sha1:0".into(), ..claim(None, &[]) });
        assert!(claims.is_early(&sync("other", |_| {}), &me, revision));
        assert!(!claims.is_early(&sync("other", tried), &me, revision), "it cannot render it");
        claims.claim(key("other"), claim(None, &[]));
        assert!(!claims.is_early(&sync("other", |_| {}), &me, revision));
    }

    fn id(name: &str) -> ObjectId {
        ObjectId { namespace: "ns".into(), name: name.into(), group: String::new(), kind: "ConfigMap".into() }
    }

    fn claim(server: Option<&str>, names: &[&str]) -> Claim {
        let object = |name: &&str| Desired {
            id: id(name),
            version: "v1".into(),
            body: Manifest::from(&serde_json::Value::Null),
            digest: String::new(),
            marks: Marks::default(),
            ignored: Ignored::default(),
            place: Place { file: "a.yaml".into(), line: 1 },
        };
        let desired = Arc::new(names.iter().map(object).collect());
        Claim { server: server.map(str::to_owned), revision: "main@sha1:1".into(), desired }
    }

    #[test]
    fn what_moved_is_wanted_by_one_and_freed_by_the_other() {
        let (one, two, far) = (key("one"), key("two"), key("far"));
        let live = |owner: &Key| {
            let (uid, resource_version, marks) = (String::new(), String::new(), Marks::default());
            let owner = owner.clone();
            LiveObject { uid, resource_version, owner, fields: 1, generation: None, run: None, marks }
        };
        let there = HashMap::from([(id("a"), live(&one)), (id("b"), live(&one)), (id("c"), live(&two))]);
        let mut claims = Claims::default();
        claims.claim(two.clone(), claim(None, &["a", "c"]));
        assert!(claims.freed(&two, &there).is_empty(), "nobody knows what one asks for");
        claims.claim(one.clone(), claim(None, &["b"]));
        claims.claim(far.clone(), claim(Some("https://far"), &["b", "d"]));
        assert_eq!(claims.freed(&two, &there), [id("a")].into());
        assert!(claims.freed(&far, &there).is_empty(), "it is in another cluster");
        let going = [id("a"), id("d")];
        assert_eq!(claims.wanted(&one, &going.iter().collect()), [id("a")].into());
        claims.claim(("elsewhere".into(), "two".into()), claim(None, &["d"]));
        assert_eq!(claims.wanted(&one, &going.iter().collect()), [id("a")].into(), "another tenant has no say");
        claims.keep(|key| *key != two);
        assert!(claims.wanted(&one, &going.iter().collect()).is_empty());
    }
}
