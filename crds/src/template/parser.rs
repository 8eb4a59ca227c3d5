//! Tokens to a tree, by the rules of Go's `text/template/parse`: the same templates are refused, for the same reason.
//! The tree's depth and size are bounded here, so that nothing that walks it can run out of stack or memory.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    functions::{self, Function},
    lexer::{Kind, Lexer, Malformed, Token},
    literal::{self, Number},
    value::Text,
};

/// How deep blocks and parentheses may nest, each `else if` counting as one. The stack of a small thread holds it
/// several times over, in a build without optimization.
const DEPTH: usize = 100;
/// Parts of one template: a tree of this size is a few megabytes.
const PARTS: usize = 20_000;
/// Variables in sight of one another: each use looks through them.
const VARIABLES: usize = 200;

type Parsed<T> = Result<T, Malformed>;

/// The named templates that one text defines, itself among them.
pub(super) type Templates = BTreeMap<String, Rc<Nodes>>;
pub(super) type Nodes = Vec<Node>;

pub(super) enum Node {
    Text(Text),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { line: usize, name: String, argument: Option<Pipe> },
    Break,
    Continue,
}

pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Nodes,
    pub(super) otherwise: Option<Nodes>,
}

pub(super) struct Pipe {
    pub(super) line: usize,
    /// Variables that take the value, and whether they are there already.
    pub(super) variables: Vec<Rc<str>>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

pub(super) struct Command {
    pub(super) line: usize,
    pub(super) operand: Operand,
    pub(super) arguments: Vec<Operand>,
}

pub(super) enum Operand {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    Text(Text),
    Field(Vec<String>),
    Variable(Rc<str>, Vec<String>),
    Function(&'static Function),
    Pipe(Box<Pipe>),
    Chain(Box<Operand>, Vec<String>),
}

/// Reads the template of that name.
pub(super) fn parse(name: &str, template: &str) -> Parsed<Templates> {
    let mut parser = Parser {
        lexer: Lexer::new(template),
        templates: Templates::new(),
        variables: vec!["$".into()],
        ranges: 0,
        depth: 0,
        parts: 0,
    };
    let root = parser.root()?;
    parser.define(name.to_owned(), root)?;
    Ok(parser.templates)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    templates: Templates,
    variables: Vec<Rc<str>>,
    ranges: usize,
    depth: usize,
    parts: usize,
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Ending {
    End,
    Else,
}

enum Item {
    Node(Node),
    Ending(Ending),
}

impl<'t> Parser<'t> {
    fn next(&mut self) -> Parsed<Token<'t>> {
        self.lexer.next()
    }

    fn peek(&self) -> Parsed<Token<'t>> {
        let mut ahead = self.lexer;
        ahead.next()
    }

    fn next_word(&mut self) -> Parsed<Token<'t>> {
        let token = self.next()?;
        if token.kind == Kind::Space { self.next() } else { Ok(token) }
    }

    fn peek_word(&self) -> Parsed<Token<'t>> {
        let mut ahead = self.lexer;
        let token = ahead.next()?;
        if token.kind == Kind::Space { ahead.next() } else { Ok(token) }
    }

    fn unexpected<T>(token: Token<'_>, context: &str) -> Parsed<T> {
        let what = match token.kind {
            Kind::End => "end of the template".to_owned(),
            _ => format!("{:?}", token.text.chars().take(40).collect::<String>()),
        };
        Err(Malformed { line: token.line, what: format!("unexpected {what} in {context}") })
    }

    fn close(&mut self, context: &str) -> Parsed<()> {
        let token = self.next_word()?;
        if token.kind == Kind::RightDelimiter { Ok(()) } else { Self::unexpected(token, context) }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == DEPTH {
            return self.lexer.malformed(format!("more than {DEPTH} levels of nesting"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn part(&mut self) -> Parsed<()> {
        self.parts += 1;
        if self.parts > PARTS {
            return self.lexer.malformed(format!("more than {PARTS} parts"));
        }
        Ok(())
    }

    fn define(&mut self, name: String, nodes: Nodes) -> Parsed<()> {
        let empty = nodes.iter().all(is_empty);
        let defined = self.templates.get(&name);
        if defined.is_none_or(|before| before.iter().all(is_empty)) {
            self.templates.insert(name, Rc::new(nodes));
        } else if !empty {
            return self.lexer.malformed(format!("multiple definition of template {name:?}"));
        }
        Ok(())
    }

    fn root(&mut self) -> Parsed<Nodes> {
        let mut nodes = Nodes::new();
        loop {
            let before = self.lexer;
            let token = self.next()?;
            if token.kind == Kind::End {
                return Ok(nodes);
            }
            let keyword = (token.kind == Kind::LeftDelimiter).then(|| self.peek_word()).transpose()?;
            if keyword.is_some_and(|token| token.kind == Kind::Keyword && token.text == "define") {
                self.next_word()?;
                let name = self.name("define clause")?;
                self.close("define clause")?;
                self.body(name, "define clause")?;
                continue;
            }
            self.lexer = before;
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                Item::Ending(Ending::End) => return self.lexer.malformed("unexpected {{end}}"),
                Item::Ending(Ending::Else) => return self.lexer.malformed("unexpected {{else}}"),
            }
        }
    }

    /// The body of a named template. It sees no variable and no loop of its surroundings.
    fn body(&mut self, name: String, context: &str) -> Parsed<()> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, ending) = self.list()?;
        if ending != Ending::End {
            return self.lexer.malformed(format!("unexpected {{{{else}}}} in {context}"));
        }
        self.define(name, nodes)?;
        self.variables = variables;
        self.ranges = ranges;
        Ok(())
    }

    fn list(&mut self) -> Parsed<(Nodes, Ending)> {
        self.deeper(|parser| {
            let mut nodes = Nodes::new();
            loop {
                if parser.peek_word()?.kind == Kind::End {
                    return parser.lexer.malformed("unexpected end of the template, {{end}} is missing");
                }
                match parser.item()? {
                    Item::Node(node) => nodes.push(node),
                    Item::Ending(ending) => return Ok((nodes, ending)),
                }
            }
        })
    }

    fn item(&mut self) -> Parsed<Item> {
        self.part()?;
        let token = self.next_word()?;
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(Text::new(token.text.into())))),
            Kind::LeftDelimiter => self.action(),
            _ => Self::unexpected(token, "input"),
        }
    }

    fn action(&mut self) -> Parsed<Item> {
        let token = self.peek_word()?;
        if token.kind != Kind::Keyword || token.text == "define" {
            return Ok(Item::Node(Node::Action(self.pipe("command", Kind::RightDelimiter)?)));
        }
        self.next_word()?;
        let node = match token.text {
            "if" => Node::If(self.branch("if")?),
            "with" => Node::With(self.branch("with")?),
            "range" => Node::Range(self.branch("range")?),
            "template" => {
                let name = self.name("template clause")?;
                let argument = match self.peek_word()?.kind {
                    Kind::RightDelimiter => self.close("template clause").map(|()| None)?,
                    _ => Some(self.pipe("template clause", Kind::RightDelimiter)?),
                };
                Node::Template { line: token.line, name, argument }
            }
            "block" => {
                let name = self.name("block clause")?;
                let argument = self.pipe("block clause", Kind::RightDelimiter)?;
                self.body(name.clone(), "block clause")?;
                Node::Template { line: token.line, name, argument: Some(argument) }
            }
            "end" => return self.close("end").map(|()| Item::Ending(Ending::End)),
            "else" => {
                // What follows belongs to the branch that this ends.
                let next = self.peek_word()?;
                if next.kind != Kind::Keyword || !matches!(next.text, "if" | "with") {
                    self.close("else")?;
                }
                return Ok(Item::Ending(Ending::Else));
            }
            jump => {
                self.close(jump)?;
                if self.ranges == 0 {
                    return self.lexer.malformed(format!("{{{{{jump}}}}} outside {{{{range}}}}"));
                }
                if jump == "break" { Node::Break } else { Node::Continue }
            }
        };
        Ok(Item::Node(node))
    }

    fn name(&mut self, context: &str) -> Parsed<String> {
        let token = self.next_word()?;
        match token.kind {
            Kind::Quoted | Kind::Raw => match literal::unquote(token.text).map(String::from_utf8) {
                Some(Ok(name)) => Ok(name),
                _ => self.lexer.malformed("invalid syntax in a quoted string"),
            },
            _ => Self::unexpected(token, context),
        }
    }

    fn branch(&mut self, context: &str) -> Parsed<Branch> {
        let in_sight = self.variables.len();
        let pipe = self.pipe(context, Kind::RightDelimiter)?;
        let is_range = context == "range";
        self.ranges += usize::from(is_range);
        let (then, ending) = self.list()?;
        self.ranges -= usize::from(is_range);
        let mut otherwise = None;
        if ending == Ending::Else {
            let next = self.peek_word()?;
            let chained = next.kind == Kind::Keyword && next.text == context;
            otherwise = Some(if chained && !is_range {
                self.next_word()?;
                let inner = self.deeper(|parser| parser.branch(context))?;
                vec![if context == "if" { Node::If(inner) } else { Node::With(inner) }]
            } else {
                let (nodes, ending) = self.list()?;
                if ending == Ending::Else {
                    return self.lexer.malformed("expected end; found {{else}}");
                }
                nodes
            });
        }
        self.variables.truncate(in_sight);
        Ok(Branch { pipe, then, otherwise })
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Parsed<Pipe> {
        let line = self.peek_word()?.line;
        let (variables, assigns) = self.declarations(context)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let token = self.peek_word()?;
            if token.kind == end {
                self.next_word()?;
                break;
            }
            let command = self.command(context)?;
            let constant = matches!(
                command.operand,
                Operand::Bool(_) | Operand::Dot | Operand::Nil | Operand::Number(_) | Operand::Text(_)
            );
            if constant && !commands.is_empty() {
                return self
                    .lexer
                    .malformed(format!("non executable command in pipeline stage {}", commands.len() + 1));
            }
            commands.push(command);
        }
        if commands.is_empty() {
            return self.lexer.malformed(format!("missing value for {context}"));
        }
        Ok(Pipe { line, variables, assigns, commands })
    }

    fn declarations(&mut self, context: &str) -> Parsed<(Vec<Rc<str>>, bool)> {
        let mut variables = Vec::new();
        loop {
            let before = self.lexer;
            let variable = self.next_word()?;
            let then = if variable.kind == Kind::Variable { self.next_word()?.kind } else { variable.kind };
            if variable.kind != Kind::Variable || !matches!(then, Kind::Declare | Kind::Assign | Kind::Comma) {
                self.lexer = before;
                return Ok((variables, false));
            }
            let name: Rc<str> = variable.text.into();
            if self.variables.len() == VARIABLES {
                return self.lexer.malformed(format!("more than {VARIABLES} variables"));
            }
            self.variables.push(name.clone());
            variables.push(name);
            if then != Kind::Comma {
                return Ok((variables, then == Kind::Assign));
            }
            if context != "range" || variables.len() > 1 {
                return self.lexer.malformed(format!("too many declarations in {context}"));
            }
            if !matches!(self.peek_word()?.kind, Kind::Variable | Kind::RightDelimiter | Kind::RightParenthesis) {
                return self.lexer.malformed("range can only initialize variables");
            }
        }
    }

    /// One command, and the pipe behind it.
    fn command(&mut self, context: &str) -> Parsed<Command> {
        let line = self.peek_word()?.line;
        let mut operands = Vec::new();
        loop {
            let before = self.lexer;
            let token = self.next_word()?;
            match self.operand(token)? {
                Some(operand) => operands.push(operand),
                None => self.lexer = before,
            }
            let before = self.lexer;
            let token = self.next()?;
            match token.kind {
                Kind::Space => continue,
                Kind::Pipe => {}
                Kind::RightDelimiter | Kind::RightParenthesis => self.lexer = before,
                _ if operands.is_empty() => return Self::unexpected(token, context),
                _ => return Self::unexpected(token, "operand"),
            }
            break;
        }
        let mut operands = operands.into_iter();
        match operands.next() {
            Some(operand) => Ok(Command { line, operand, arguments: operands.collect() }),
            None => self.lexer.malformed("empty command"),
        }
    }

    fn operand(&mut self, token: Token<'t>) -> Parsed<Option<Operand>> {
        let Some(term) = self.term(token)? else {
            return Ok(None);
        };
        self.part()?;
        let mut fields = Vec::new();
        while self.peek()?.kind == Kind::Field {
            self.part()?;
            fields.push(self.next()?.text[1..].to_owned());
        }
        if fields.is_empty() {
            return Ok(Some(term));
        }
        Ok(Some(match term {
            Operand::Field(mut names) => {
                names.append(&mut fields);
                Operand::Field(names)
            }
            Operand::Variable(name, mut names) => {
                names.append(&mut fields);
                Operand::Variable(name, names)
            }
            Operand::Dot | Operand::Nil | Operand::Bool(_) | Operand::Number(_) | Operand::Text(_) => {
                return self.lexer.malformed(format!("unexpected . after term {:?}", token.text));
            }
            other => Operand::Chain(Box::new(other), fields),
        }))
    }

    fn term(&mut self, token: Token<'t>) -> Parsed<Option<Operand>> {
        let at_token = |what: String| Err(Malformed { line: token.line, what });
        Ok(Some(match token.kind {
            Kind::Identifier => match functions::find(token.text) {
                Ok(function) => Operand::Function(function),
                Err(what) => return at_token(what),
            },
            Kind::Dot => Operand::Dot,
            Kind::Nil => Operand::Nil,
            Kind::Bool => Operand::Bool(token.text == "true"),
            Kind::Field => Operand::Field(vec![token.text[1..].to_owned()]),
            Kind::Variable => match self.variables.iter().find(|name| &***name == token.text) {
                Some(name) => Operand::Variable(name.clone(), Vec::new()),
                None => return at_token(format!("undefined variable {:?}", token.text)),
            },
            Kind::Number | Kind::Rune => match literal::number(token.text) {
                Some(number) => Operand::Number(number),
                None => return at_token(format!("illegal number syntax: {:?}", token.text)),
            },
            Kind::LeftParenthesis => {
                let inner = |parser: &mut Self| parser.pipe("parenthesized pipeline", Kind::RightParenthesis);
                Operand::Pipe(Box::new(self.deeper(inner)?))
            }
            Kind::Quoted | Kind::Raw => match literal::unquote(token.text) {
                Some(text) => Operand::Text(Text::new(text)),
                None => return at_token("invalid syntax in a quoted string".to_owned()),
            },
            _ => return Ok(None),
        }))
    }
}

/// Nothing but space: such a template does not replace another.
fn is_empty(node: &Node) -> bool {
    matches!(node, Node::Text(text) if text.trim_ascii().is_empty())
}
