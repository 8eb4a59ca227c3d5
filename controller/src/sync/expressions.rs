//! What a spec says in CEL: how objects of other kinds fare, and when a dependency is ready. All of it is read before
//! anything is done, so that a mistake is told with its place; a Secret is never shown to any of it. Pure.
//!
//! Whoever may write a GitSync or an object may write what is evaluated here, so it is bounded: see [`bounds`].

mod bounds;

use std::{collections::HashMap, sync::Arc};

use cel::{
    Context, Env, ExecutionError, ParseErrors, Program, Value as Cel,
    objects::{Key, Map},
};
use crds::{
    GitSync,
    git_sync::{GitSyncSpec, HealthCheckExpr},
};
use serde_json::Value;

use self::bounds::{Loops, apart};
use super::{
    health::{Health, outdated},
    object::ObjectId,
};

/// As much of what the evaluation says is told.
const WORDS: usize = 200;

/// An expression that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}{at}: {why}", at = .at.map_or_else(String::new, |(line, column)| format!(", line {line}, column {column}")))]
pub struct Invalid {
    field: String,
    /// Line and column, from 1.
    at: Option<(isize, isize)>,
    why: String,
}

impl Invalid {
    /// Where reading them did not come to an end.
    pub fn unread() -> Self {
        Self { field: "spec".to_owned(), at: None, why: "its expressions cannot be read".to_owned() }
    }
}

/// All expressions of a spec.
#[derive(Debug, Default)]
pub struct Expressions {
    said: Vec<HealthCheckExpr>,
    checks: Vec<Check>,
    /// By the place in spec.dependsOn.
    ready: Vec<Option<Expression>>,
}

#[derive(Debug)]
struct Check {
    group: String,
    kind: Option<String>,
    in_progress: Option<Expression>,
    failed: Option<Expression>,
    current: Expression,
}

#[derive(Debug)]
struct Expression {
    /// Where it stands in the spec.
    field: String,
    program: Program,
    loops: Loops,
}

impl Expressions {
    /// Reads them.
    pub fn new(spec: &GitSyncSpec) -> Result<Self, Invalid> {
        let check = |(number, said): (usize, &HealthCheckExpr)| {
            let field = |name: &str| format!("spec.healthCheckExprs[{number}].{name}");
            let maybe = |name: &str, text: &Option<String>| {
                text.as_deref().map(|text| Expression::new(field(name), text)).transpose()
            };
            let group = said.api_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
            if is_secret(&group, said.kind.as_deref().unwrap_or_default()) {
                let why = "Secrets are not looked into; leave it out".to_owned();
                return Err(Invalid { field: field("kind"), at: None, why });
            }
            Ok(Check {
                group,
                kind: said.kind.clone(),
                in_progress: maybe("inProgress", &said.in_progress)?,
                failed: maybe("failed", &said.failed)?,
                current: Expression::new(field("current"), &said.current)?,
            })
        };
        let ready = spec.depends_on.iter().enumerate().map(|(number, needed)| {
            let read = |text| Expression::new(format!("spec.dependsOn[{number}].readyExpr"), text);
            needed.ready_expr.as_deref().map(read).transpose()
        });
        Ok(Self {
            ready: ready.collect::<Result<_, _>>()?,
            checks: spec.health_check_exprs.iter().enumerate().map(check).collect::<Result<_, _>>()?,
            said: spec.health_check_exprs.clone(),
        })
    }

    /// Whether these say the same of the health of everything.
    pub fn judge_as(&self, other: &Self) -> bool {
        self.said == other.said
    }

    /// Whether they say how an object fares.
    pub fn judges(&self, id: &ObjectId) -> bool {
        self.check(id).is_some()
    }

    /// What they say of it; `None` where they say nothing.
    pub fn health(&self, id: &ObjectId, object: &Value) -> Option<Health> {
        let Check { in_progress, failed, current, .. } = self.check(id)?;
        if let Some(outdated) = outdated(object) {
            return Some(outdated);
        }
        let fields = || object.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
        let asked = [(in_progress.as_ref(), None), (failed.as_ref(), Some(false)), (Some(current), Some(true))];
        for (expression, verdict) in asked.into_iter().filter_map(|(expression, verdict)| Some((expression?, verdict)))
        {
            let by = &expression.field;
            match (expression.is_true(fields()), verdict) {
                (Ok(false), _) => {}
                (Ok(true), None) => return Some(Health::Progressing(format!("in progress by {by}"))),
                (Ok(true), Some(false)) => return Some(Health::Degraded(format!("failed by {by}"))),
                (Ok(true), Some(true)) => return Some(Health::Healthy),
                (Err(why), _) => return Some(Health::Progressing(format!("not known by {by}: {why}"))),
            }
        }
        Some(Health::Progressing(format!("not current by {}", current.field)))
    }

    /// Whether a dependency is ready, or why not; `None` where they say nothing of it.
    pub fn ready(&self, number: usize, me: &GitSync, needed: &GitSync) -> Option<Result<(), String>> {
        let expression = self.ready.get(number)?.as_ref()?;
        let shown = |sync: &GitSync| {
            let mut shown = serde_json::to_value(sync).unwrap_or_default();
            // Thousands of entries, of no use here.
            shown["status"].as_object_mut().map(|status| status.remove("inventory"));
            shown
        };
        let (me, needed) = (shown(me), shown(needed));
        let by = &expression.field;
        Some(match expression.is_true([("self", &me), ("dep", &needed)].into_iter()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("is not ready by {by}")),
            Err(why) => Err(format!("is not ready by {by}: {why}")),
        })
    }

    fn check(&self, id: &ObjectId) -> Option<&Check> {
        let is_meant =
            |check: &&Check| check.group == id.group && check.kind.as_ref().is_none_or(|kind| *kind == id.kind);
        self.checks.iter().find(is_meant).filter(|_| !is_secret(&id.group, &id.kind) && !id.is_sealed())
    }
}

fn is_secret(group: &str, kind: &str) -> bool {
    group.is_empty() && kind == "Secret"
}

impl Expression {
    fn new(field: String, text: &str) -> Result<Self, Invalid> {
        let invalid = |at, why: &str| Invalid { field: field.clone(), at, why: why.to_owned() };
        let read = || {
            bounds::length(text).map_err(|why| invalid(None, &why))?;
            let program = Env::stdlib().compile(text).map_err(|errors| {
                let (at, why) = first(&errors);
                invalid(at, &why)
            })?;
            let loops = Loops::of(program.expression()).map_err(|why| invalid(None, &why))?;
            Ok((program, loops))
        };
        let (program, loops) = apart(read).unwrap_or_else(|| Err(invalid(None, "cannot be read")))?;
        Ok(Self { field, program, loops })
    }

    fn is_true<'a>(&self, variables: impl Iterator<Item = (&'a str, &'a Value)>) -> Result<bool, String> {
        let variables: Vec<_> = variables.collect();
        self.loops.bear(variables.iter().map(|(_, value)| *value))?;
        let evaluated = apart(|| {
            let mut context = Context::with_env(Arc::new(Env::stdlib()));
            self.loops.patterns()?.bind(&mut context).map_err(|error| error.to_string())?;
            for (name, value) in variables {
                context.add_variable_from_value(name, shown(value));
            }
            match self.program.execute(&context) {
                Ok(Cel::Bool(is_true)) => Ok(is_true),
                Ok(other) => Err(format!("it is a {}, and not true or false", other.type_of())),
                Err(error) => Err(words(&error)),
            }
        });
        evaluated.unwrap_or_else(|| Err("it cannot be evaluated".to_owned()))
    }
}

/// As CEL sees it: every whole number a signed one, as in cel-go.
fn shown(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(it) => Cel::Bool(*it),
        Value::Number(it) => it.as_i64().map_or_else(|| Cel::Float(it.as_f64().unwrap_or_default()), Cel::Int),
        Value::String(it) => Cel::String(Arc::new(it.clone())),
        Value::Array(all) => Cel::List(Arc::new(all.iter().map(shown).collect())),
        Value::Object(all) => {
            let entry = |(name, value): (&String, &Value)| (Key::String(Arc::new(name.clone())), shown(value));
            Cel::Map(Map { map: Arc::new(all.iter().map(entry).collect::<HashMap<_, _>>()) })
        }
    }
}

fn words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) | ExecutionError::UndeclaredReference(name) => format!("there is no {name}"),
        other => other.to_string().chars().take(WORDS).collect(),
    }
}

/// Where the first mistake is, and what it is.
fn first(errors: &ParseErrors) -> (Option<(isize, isize)>, String) {
    let Some(error) = errors.errors.first() else { return (None, "cannot be read".to_owned()) };
    let why = if error.msg.contains("Recursion limit") { "too deep" } else { error.msg.as_str() };
    // What it lists is everything that there is in CEL.
    let why = why.split(" expecting {").next().unwrap_or(why);
    (Some(error.pos).filter(|(line, _)| *line > 0), why.chars().take(WORDS).collect())
}

#[cfg(test)]
mod tests {
    use crds::git_sync::SyncReference;
    use serde_json::json;

    use super::*;

    fn id(group: &str, kind: &str) -> ObjectId {
        ObjectId { namespace: "ns".into(), name: "a".into(), group: group.into(), kind: kind.into() }
    }

    fn read(checks: Value) -> Result<Expressions, String> {
        let health_check_exprs = serde_json::from_value(checks).unwrap();
        let spec = GitSyncSpec { health_check_exprs, ..GitSyncSpec::default() };
        Expressions::new(&spec).map_err(|invalid| invalid.to_string())
    }

    fn current(text: &str) -> Result<Expressions, String> {
        read(json!([{"apiVersion": "example.com/v1", "kind": "Widget", "current": text}]))
    }

    fn said(expressions: &Expressions, status: &Value) -> String {
        let object = json!({"kind": "Widget", "metadata": {"generation": 2}, "spec": {"size": 3}, "status": status});
        match expressions.health(&id("example.com", "Widget"), &object).unwrap() {
            Health::Healthy => "healthy".to_owned(),
            Health::Progressing(why) => format!("progressing: {why}"),
            Health::Degraded(why) => format!("degraded: {why}"),
        }
    }

    #[test]
    fn the_first_that_is_true_counts() {
        let expressions = read(json!([{
            "apiVersion": "example.com/v1beta1", "kind": "Widget",
            "inProgress": "status.phase == 'Pending'",
            "failed": "status.conditions.exists(it, it.type == 'Broken' && it.status == 'True')",
            "current": "status.ready >= spec.size && status.phase in ['Up', 'Ready']",
        }]))
        .unwrap();
        let broken = |status: &str| json!([{"type": "Broken", "status": status}]);
        for (status, expected) in [
            (
                json!({"phase": "Pending", "conditions": broken("True")}),
                "progressing: in progress by spec.healthCheckExprs[0].inProgress",
            ),
            (
                json!({"phase": "Up", "conditions": broken("True")}),
                "degraded: failed by spec.healthCheckExprs[0].failed",
            ),
            (json!({"phase": "Up", "conditions": broken("False"), "ready": 3}), "healthy"),
            (
                json!({"phase": "Up", "conditions": [], "ready": 2}),
                "progressing: not current by spec.healthCheckExprs[0].current",
            ),
            (
                json!({"phase": "Up"}),
                "progressing: not known by spec.healthCheckExprs[0].failed: there is no conditions",
            ),
            (
                json!({"observedGeneration": 1, "phase": "Up"}),
                "progressing: its newest form has not been seen by its controller",
            ),
        ] {
            assert_eq!(said(&expressions, &status), expected, "{status}");
        }
        let no_status = json!({"kind": "Widget", "metadata": {}});
        let health = expressions.health(&id("example.com", "Widget"), &no_status);
        assert!(matches!(health, Some(Health::Progressing(why)) if why.ends_with("there is no status")));
        assert_eq!(expressions.health(&id("example.com", "Gadget"), &no_status), None);
    }

    #[test]
    fn numbers_are_as_in_go_and_anything_but_a_bool_is_told() {
        let is = |text: &str| said(&current(text).unwrap(), &json!({"ready": 3, "share": 0.5, "name": "x"}));
        for text in [
            "status.ready - 1 == 2",
            "status.ready > 2.5",
            "status.share * 2.0 == 1.0",
            "has(status.name) && !has(status.other)",
            "status.?other.orValue(true)",
            "status.name.matches('^[a-z]$')",
            "matches(status.name, 'x') && !status.name.matches('y')",
        ] {
            assert_eq!(is(text), "healthy", "{text}");
        }
        assert!(is("status.name").ends_with("it is a string, and not true or false"));
        assert!(is("status.name > 1").contains("no matching overload"));
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let error = |text: &str| current(text).unwrap_err();
        assert_eq!(
            error("status.phase ==\n  && true"),
            "spec.healthCheckExprs[0].current, line 2, column 3: Syntax error: extraneous input '&&'"
        );
        assert!(error("status.phase.lowerAscii() == 'up'").ends_with("there is no function lowerAscii"));
        let depends_on = vec![SyncReference { name: "db".into(), ready_expr: Some("dep.status.".into()) }];
        let invalid = Expressions::new(&GitSyncSpec { depends_on, ..GitSyncSpec::default() }).unwrap_err().to_string();
        assert!(invalid.starts_with("spec.dependsOn[0].readyExpr, line 1, column 12: "), "{invalid}");
    }

    #[test]
    fn no_secret_is_shown_to_any() {
        let named = read(json!([{"apiVersion": "v1", "kind": "Secret", "current": "data.a == 'x'"}])).unwrap_err();
        assert_eq!(named, "spec.healthCheckExprs[0].kind: Secrets are not looked into; leave it out");
        let all = read(json!([{"apiVersion": "v1", "current": "data.a == 'x'"}])).unwrap();
        assert!(all.judges(&id("", "ConfigMap")) && !all.judges(&id("", "Secret")));
        assert_eq!(all.health(&id("", "Secret"), &json!({"data": {"a": "x"}})), None);
        let sealed = read(json!([{"apiVersion": "bitnami.com/v1alpha1", "current": "true"}])).unwrap();
        assert!(!sealed.judges(&id("bitnami.com", "SealedSecret")));
    }
}
