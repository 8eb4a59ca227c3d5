//! Walks a tree and writes text, by the rules of Go's `text/template`. Every step is paid for, and how deep anything
//! calls is counted, templates that call each other included. A fault says where and what, never a value: [`Why`] holds
//! our own words only.

use std::rc::Rc;

use super::{
    MissingKey, format,
    functions::{Arguments, Function, Param, dates, versions},
    lexer::Malformed,
    literal::Number,
    parser::{Branch, Command, Node, Nodes, Operand, Pipe, Templates},
    value::{Buffer, Element, Outcome, Run, STEP, Text, Value, Why, Width},
};

/// How deep blocks, parentheses and named templates may call one another, all together.
const DEPTH: usize = 200;
const TOO_DEEP: Why = "templates, blocks or parentheses are nested too deeply, or call themselves without end";

/// Why a template stopped.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) function: Option<&'static str>,
    pub(super) what: Why,
    /// The template's own words: what it gives `fail`, or a name that it has for a key.
    pub(super) said: Option<String>,
}

type Evaluated<T = Value> = Result<T, Fault>;

/// What a node asks of the loop around it.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Renders the template of that name. `dot` is also `$`.
pub(super) fn render(
    run: &Run,
    missing: MissingKey,
    templates: &Templates,
    name: &str,
    dot: &Value,
) -> Result<Vec<u8>, Fault> {
    let mut evaluator =
        Evaluator { run, missing, templates, output: Buffer::new(run), variables: Vec::new(), depth: 0, line: 1 };
    evaluator.template(name, dot)?;
    Ok(evaluator.output.into_bytes())
}

struct Evaluator<'r> {
    run: &'r Run,
    missing: MissingKey,
    templates: &'r Templates,
    output: Buffer<'r>,
    variables: Vec<(Rc<str>, Value)>,
    depth: usize,
    line: usize,
}

impl<'r> Evaluator<'r> {
    fn fault<T>(&self, what: Why) -> Evaluated<T> {
        Err(Fault { line: self.line, function: None, what, said: None })
    }

    fn located<T>(&self, outcome: Outcome<T>) -> Evaluated<T> {
        outcome.or_else(|what| self.fault(what))
    }

    fn step(&self) -> Evaluated<()> {
        self.located(self.run.charge(STEP))
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Evaluated<T>) -> Evaluated<T> {
        if self.depth == DEPTH {
            return self.fault(TOO_DEEP);
        }
        self.depth += 1;
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn template(&mut self, name: &str, dot: &Value) -> Evaluated<()> {
        let templates = self.templates;
        let Some(nodes) = templates.get(name) else {
            return self.fault("the named template is not defined");
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$".into(), dot.clone())]);
        self.nodes(nodes, dot)?;
        self.variables = outer;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Evaluated<()> {
        let paid = self.run.output(bytes.len()).and_then(|()| self.output.push(bytes));
        self.located(paid)
    }

    fn nodes(&mut self, nodes: &'r Nodes, dot: &Value) -> Evaluated<Flow> {
        self.deeper(|this| {
            for node in nodes {
                this.step()?;
                let flow = this.node(node, dot)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn node(&mut self, node: &'r Node, dot: &Value) -> Evaluated<Flow> {
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.print(&value)?;
                }
            }
            Node::If(branch) => return self.branch(branch, dot, |dot, _| dot.clone()),
            Node::With(branch) => return self.branch(branch, dot, |_, value| value.clone()),
            Node::Range(branch) => return self.range(branch, dot),
            Node::Template { line, name, argument } => {
                self.line = *line;
                let dot = match argument {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Value::Absent,
                };
                self.line = *line;
                self.template(name, &dot)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, value: &Value) -> Evaluated<()> {
        match value {
            Value::Absent | Value::Nil => self.write(b"<no value>"),
            Value::Text(text) => self.write(text),
            other => {
                let printed = format::printed(self.run, other);
                let printed = self.located(printed)?;
                self.write(&printed)
            }
        }
    }

    fn branch(
        &mut self,
        branch: &'r Branch,
        dot: &Value,
        inner: impl FnOnce(&Value, &Value) -> Value,
    ) -> Evaluated<Flow> {
        let in_sight = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let flow = if value.truth() {
            self.nodes(&branch.then, &inner(dot, &value))?
        } else if let Some(otherwise) = &branch.otherwise {
            self.nodes(otherwise, dot)?
        } else {
            Flow::Next
        };
        self.variables.truncate(in_sight);
        Ok(flow)
    }

    fn range(&mut self, branch: &'r Branch, dot: &Value) -> Evaluated<Flow> {
        let in_sight = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let declared = self.variables.len();
        let turn = |this: &mut Self, index: Value, element: Value| -> Evaluated<bool> {
            this.step()?;
            let pipe = &branch.pipe;
            let (first, second) =
                if pipe.variables.len() > 1 { (index, Some(element.clone())) } else { (element.clone(), None) };
            for (at, (name, value)) in pipe.variables.iter().zip(std::iter::once(first).chain(second)).enumerate() {
                if pipe.assigns {
                    this.assign(name, value)?;
                } else if let Some(variable) = this.variables.get_mut(declared - pipe.variables.len() + at) {
                    variable.1 = value;
                }
            }
            let flow = this.nodes(&branch.then, &element)?;
            this.variables.truncate(declared);
            Ok(flow == Flow::Break)
        };
        let mut empty = true;
        match &value {
            Value::Int(..) if branch.pipe.variables.len() > 1 => {
                self.line = branch.pipe.line;
                return self.fault("a number has no index to range over");
            }
            Value::Int(width, count) => {
                for at in 0..*count {
                    empty = false;
                    if turn(self, Value::Absent, Value::Int(*width, at))? {
                        break;
                    }
                }
            }
            Value::List(list) => {
                for (at, element) in (0..).zip(list.iter()) {
                    empty = false;
                    if turn(self, Value::int(at), element.clone())? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                let entries = self.located(map.entries(self.run))?;
                for (key, element) in entries {
                    empty = false;
                    if turn(self, Value::Text(key), element)? {
                        break;
                    }
                }
            }
            Value::Absent | Value::Nil => {}
            _ => {
                self.line = branch.pipe.line;
                return self.fault("range goes over lists, maps and numbers only");
            }
        }
        let mut flow = Flow::Next;
        if let Some(otherwise) = branch.otherwise.as_ref().filter(|_| empty) {
            flow = self.nodes(otherwise, dot)?;
        }
        self.variables.truncate(in_sight);
        Ok(flow)
    }

    fn assign(&mut self, name: &str, value: Value) -> Evaluated<()> {
        match self.variables.iter_mut().rev().find(|(known, _)| &**known == name) {
            Some(variable) => {
                variable.1 = value;
                Ok(())
            }
            None => self.fault("the variable is not defined here"),
        }
    }

    fn pipe(&mut self, pipe: &'r Pipe, dot: &Value) -> Evaluated {
        self.deeper(|this| {
            this.line = pipe.line;
            let mut value = None;
            for command in &pipe.commands {
                // As Go does, look into an interface: what holds nil is then nothing at all.
                value = Some(match this.command(command, dot, value)? {
                    Value::Nil => Value::Absent,
                    value => value,
                });
            }
            let value = value.unwrap_or(Value::Absent);
            for name in &pipe.variables {
                if pipe.assigns {
                    this.assign(name, value.clone())?;
                } else {
                    this.variables.push((name.clone(), value.clone()));
                }
            }
            Ok(value)
        })
    }

    /// A command with the value of the one before it, which is its last argument.
    fn command(&mut self, command: &'r Command, dot: &Value, last: Option<Value>) -> Evaluated {
        self.step()?;
        self.line = command.line;
        let called = !command.arguments.is_empty() || last.is_some();
        match &command.operand {
            Operand::Function(function) => self.call(function, command, dot, last),
            Operand::Field(names) => self.fields(dot.clone(), names, command, dot, last),
            Operand::Variable(name, names) if !names.is_empty() => {
                let receiver = self.variable(name)?;
                self.fields(receiver, names, command, dot, last)
            }
            Operand::Chain(receiver, names) => {
                let receiver = self.operand(receiver, dot)?;
                self.line = command.line;
                self.fields(receiver, names, command, dot, last)
            }
            Operand::Nil => self.fault("nil is not a command"),
            _ if called => self.fault("what is not a function cannot take an argument"),
            operand => self.operand(operand, dot),
        }
    }

    /// The value of an operand where no type is asked for.
    fn operand(&mut self, operand: &'r Operand, dot: &Value) -> Evaluated {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Nil => Ok(Value::Nil),
            Operand::Bool(bool) => Ok(Value::Bool(*bool)),
            Operand::Number(Number { float, is_float: true, .. }) => Ok(Value::Float(*float)),
            Operand::Number(Number { int, .. }) => Ok(Value::int(int.unwrap_or_default())),
            Operand::Text(text) => Ok(Value::Text(text.clone())),
            Operand::Field(names) => self.chain(dot.clone(), names),
            Operand::Variable(name, names) => {
                let receiver = self.variable(name)?;
                self.chain(receiver, names)
            }
            Operand::Function(function) => self.invoke(function, Vec::new()),
            Operand::Pipe(pipe) => self.pipe(pipe, dot),
            Operand::Chain(receiver, names) => {
                let receiver = self.operand(receiver, dot)?;
                self.chain(receiver, names)
            }
        }
    }

    fn variable(&self, name: &str) -> Evaluated {
        match self.variables.iter().rev().find(|(known, _)| &**known == name) {
            Some((_, value)) => Ok(value.clone()),
            None => self.fault("the variable is not defined here"),
        }
    }

    fn chain(&mut self, mut receiver: Value, names: &[String]) -> Evaluated {
        for name in names {
            receiver = self.field(&receiver, name, &[])?;
        }
        Ok(receiver)
    }

    /// Fields in a row; only the last can be a method that takes arguments.
    fn fields(
        &mut self,
        receiver: Value,
        names: &'r [String],
        command: &'r Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Evaluated {
        let Some((name, names)) = names.split_last() else {
            return Ok(receiver);
        };
        let receiver = self.chain(receiver, names)?;
        let mut arguments = Vec::new();
        for argument in &command.arguments {
            arguments.push(self.operand(argument, dot)?);
        }
        arguments.extend(last);
        self.line = command.line;
        self.field(&receiver, name, &arguments)
    }

    fn field(&mut self, receiver: &Value, name: &str, arguments: &[Value]) -> Evaluated {
        self.step()?;
        let found = match receiver {
            Value::Absent => Ok(Value::Absent),
            Value::Nil => Err("nil has no fields"),
            Value::Map(_) if !arguments.is_empty() => Err("a key of a map takes no argument"),
            Value::Map(map) => Ok(map.get(name.as_bytes()).unwrap_or(Value::Absent)),
            Value::Time(time) => dates::method(self.run, time, name, arguments),
            Value::Version(version) => versions::method(self.run, version, name, arguments),
            _ => Err("only maps have fields"),
        };
        match self.located(found)? {
            // The name stands in the template for all to read. What is there and holds nil is not missing.
            Value::Absent if self.missing == MissingKey::Error => {
                let said = Some(name.to_owned());
                Err(Fault { line: self.line, function: None, what: "there is no such key", said })
            }
            found => Ok(found),
        }
    }

    fn call(
        &mut self,
        function: &'static Function,
        command: &'r Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Evaluated {
        let count = command.arguments.len() + usize::from(last.is_some());
        if count < function.fixed.len() || (function.rest.is_none() && count > function.fixed.len()) {
            return self.fault_in(function, "wrong number of arguments");
        }
        if matches!(function.name, "and" | "or") {
            return self.lazily(function, command, dot, last);
        }
        let mut arguments = Vec::with_capacity(count);
        for (at, operand) in command.arguments.iter().enumerate() {
            let value = self.argument(operand, dot, function.parameter(at))?;
            self.line = command.line;
            arguments.push(value.or_else(|what| self.fault_in(function, what))?);
        }
        if let Some(last) = last {
            let value = self.accept(last, function.parameter(command.arguments.len()));
            arguments.push(value.or_else(|what| self.fault_in(function, what))?);
        }
        if let ("fail", [Operand::Text(text)]) = (function.name, command.arguments.as_slice()) {
            // The template's own words, which stand in the SealedSecret for all to read.
            let said = Some(String::from_utf8_lossy(text).into_owned());
            return Err(Fault { line: self.line, function: Some("fail"), what: "the template gave up", said });
        }
        self.invoke(function, arguments)
    }

    fn invoke(&mut self, function: &'static Function, arguments: Vec<Value>) -> Evaluated {
        if arguments.len() < function.fixed.len() {
            return self.fault_in(function, "wrong number of arguments");
        }
        // A function reads its texts, whether or not it makes one.
        let read = arguments.iter().map(|value| if let Value::Text(text) = value { text.len() / 4 } else { 0 });
        let done = self.run.charge(STEP + read.sum::<usize>());
        let done = done.and_then(|()| (function.call)(self.run, &Arguments(arguments)));
        done.or_else(|what| self.fault_in(function, what))
    }

    fn fault_in<T>(&self, function: &'static Function, what: Why) -> Evaluated<T> {
        Err(Fault { line: self.line, function: Some(function.name), what, said: None })
    }

    /// `and` and `or` evaluate no more than they must.
    fn lazily(
        &mut self,
        function: &'static Function,
        command: &'r Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Evaluated {
        let mut value = Value::Absent;
        for operand in &command.arguments {
            value = self.operand(operand, dot)?;
            if value.truth() == (function.name == "or") {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// An operand where a parameter asks for a type: a literal takes it on, a value must have it.
    fn argument(&mut self, operand: &'r Operand, dot: &Value, parameter: Param) -> Evaluated<Outcome> {
        let literal = match (operand, parameter) {
            (Operand::Nil, Param::Any | Param::Reflected | Param::Map) => {
                return Ok(self.accept(Value::Absent, parameter));
            }
            (Operand::Nil, _) => Err("nil is not accepted here"),
            (
                Operand::Dot
                | Operand::Field(_)
                | Operand::Variable(..)
                | Operand::Function(_)
                | Operand::Pipe(_)
                | Operand::Chain(..),
                _,
            )
            | (_, Param::Any | Param::Reflected) => {
                let value = self.operand(operand, dot)?;
                return Ok(self.accept(value, parameter));
            }
            (Operand::Number(Number { int: Some(int), .. }), Param::Int) => Ok(Value::int(*int)),
            (Operand::Number(Number { int: Some(int), .. }), Param::Counter) if u32::try_from(*int).is_ok() => {
                Ok(Value::int(*int))
            }
            (Operand::Number(Number { float, .. }), Param::Float) => Ok(Value::Float(*float)),
            (Operand::Bool(bool), Param::Bool) => Ok(Value::Bool(*bool)),
            (Operand::Text(text), Param::Text) => Ok(Value::Text(text.clone())),
            _ => Err(parameter.expected()),
        };
        Ok(literal)
    }

    fn accept(&self, value: Value, parameter: Param) -> Outcome {
        match (&value, parameter) {
            (Value::Absent, Param::Any) => Ok(Value::Nil),
            (Value::Absent, Param::Map) => self.run.map(Element::Any).map(Value::Map),
            (_, Param::Any | Param::Reflected)
            | (Value::Text(_), Param::Text)
            | (Value::Int(Width::Int, _), Param::Int)
            | (Value::Float(_), Param::Float)
            | (Value::Bool(_), Param::Bool)
            | (Value::Time(_), Param::Time) => Ok(value),
            (Value::Map(map), Param::Map) if map.element() == Element::Any => Ok(value),
            _ => Err(parameter.expected()),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(Malformed { line, what }: Malformed) -> Self {
        Self { line, function: None, what: "the template cannot be read", said: Some(what) }
    }
}

/// Text for the names of keys.
pub(super) fn root(run: &Run, values: impl Iterator<Item = (Text, Text)>) -> Outcome {
    let map = run.map(Element::Text)?;
    for (key, value) in values {
        run.charge(value.len())?;
        map.set(run, key, Value::Text(value))?;
    }
    Ok(Value::Map(map))
}
