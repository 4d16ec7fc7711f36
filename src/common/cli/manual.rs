//! Manual pages and the reference, made from the description of the flags that `--help` prints. PURE.
//!
//! The text at the end of `--help` is written so that both can be made of it: a line without indentation begins a
//! section; two spaces begin text, or a name and its explanation; four spaces are something to type; six and more go
//! on with the explanation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::builder::{PossibleValue, StyledStr};
use clap::{Arg, Command};

const DATE: &str = "2026-11-29";

enum Block {
    Section(String),
    Subsection(String),
    Text(String),
    Example(String),
    Item { name: String, text: String },
}

/// The manual page of a program, or of one of its commands, for man(1).
pub(super) fn roff(root: &Command, command: Option<&str>) -> String {
    let root = built(root);
    let command = command.and_then(|name| root.find_subcommand(name));
    let name = page_name(&root, command);
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!(
        ".TH {} 1 \"{DATE}\" \"iot-pubsub {version}\" \"User Commands\"\n",
        name.to_uppercase()
    );
    let mut in_paragraph = false;
    for block in page_blocks(&root, command) {
        let paragraph = if in_paragraph { ".PP\n" } else { "" };
        in_paragraph = !matches!(block, Block::Section(_) | Block::Subsection(_));
        let _ = match block {
            Block::Section(title) => writeln!(out, ".SH {}", title.to_uppercase()),
            Block::Subsection(title) => writeln!(out, ".SS {}", roff_line(&title)),
            Block::Text(text) => write!(out, "{paragraph}{}", wrap_roff(&text)),
            Block::Example(lines) => {
                let lines: String = lines.lines().map(|line| roff_line(line) + "\n").collect();
                write!(out, "{paragraph}.nf\n.RS 4\n{lines}.RE\n.fi\n")
            }
            Block::Item { name, text } => {
                let name = roff_line(&name);
                write!(out, ".TP\n\\fB{name}\\fR\n{}", wrap_roff(&text))
            }
        };
    }
    out
}

pub fn reference(programs: &[Command]) -> String {
    let mut out = "# Reference\n\n\
        The manual pages of `publisher` and `subscriber`, as `publisher man` and `publisher man COMMAND` print them.\n\
        This file is generated: `UPDATE_REFERENCE=1 cargo test --test it reference` writes it.\n"
        .to_owned();
    let mut described = PrintedGroups::default();
    for root in programs.iter().map(built) {
        let commands = subcommands(&root).map(Some);
        for command in std::iter::once(None).chain(commands) {
            let page = page_name(&root, command);
            let _ = write!(out, "\n## {page}\n");
            // Flags that several commands share are described once.
            let mut group = (String::new(), String::new());
            for block in page_blocks(&root, command) {
                let begins = matches!(block, Block::Section(_) | Block::Subsection(_));
                if begins {
                    described.write_or_link(&mut out, &page, std::mem::take(&mut group));
                }
                let _ = match block {
                    Block::Section(title) => write!(group.0, "\n### {title}\n"),
                    Block::Subsection(title) => write!(group.0, "\n#### {title}\n"),
                    Block::Text(text) => write!(group.1, "\n{}\n", escape_markdown(&text)),
                    Block::Example(lines) => write!(group.1, "\n```\n{lines}\n```\n"),
                    Block::Item { name, text } => {
                        write!(group.1, "\n- `{name}`: {}\n", escape_markdown(&text))
                    }
                };
            }
            described.write_or_link(&mut out, &page, group);
        }
    }
    out
}

/// What the reference has described already.
#[derive(Default)]
struct PrintedGroups {
    /// Heading and text; where they are.
    groups: BTreeMap<(String, String), String>,
    /// How often a heading has been used: GitHub numbers the anchors of equal ones.
    headings: BTreeMap<String, usize>,
}

impl PrintedGroups {
    /// Adds a heading and its text, or a link to the page that has the same.
    fn write_or_link(&mut self, out: &mut String, page: &str, group: (String, String)) {
        out.push_str(&group.0);
        let title = group.0.trim().trim_start_matches('#').trim();
        let mut anchor = title.to_lowercase().replace(' ', "-");
        let used = self.headings.entry(anchor.clone()).or_default();
        if *used > 0 {
            let _ = write!(anchor, "-{used}");
        }
        *used += 1;
        match self.groups.get(&group) {
            Some(page_link) if group.1.lines().count() > 4 => {
                let _ = write!(out, "\nThe same as {page_link}.\n");
            }
            _ => {
                out.push_str(&group.1);
                let page_link = format!("[{title} of {page}](#{anchor})");
                self.groups.entry(group).or_insert(page_link);
            }
        }
    }
}

/// A description that knows the full names of its commands.
fn built(root: &Command) -> Command {
    let mut root = root.clone();
    root.build();
    root
}

pub(super) fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|command| command.get_name() != "help")
}

fn page_name(root: &Command, command: Option<&Command>) -> String {
    match command {
        Some(command) => format!("{}-{}", root.get_name(), command.get_name()),
        None => root.get_name().to_owned(),
    }
}

fn page_blocks(root: &Command, command: Option<&Command>) -> Vec<Block> {
    let name = page_name(root, command);
    let target = command.unwrap_or(root);
    let about = text_or_empty(target.get_about());
    let mut blocks = vec![
        Block::Section("Name".into()),
        Block::Text(format!("{name} - {}", decapitalized(&about))),
        Block::Section("Synopsis".into()),
        Block::Example(usage(target)),
        Block::Section("Description".into()),
    ];
    let long = text_or_empty(target.get_long_about());
    // The first paragraph repeats the title.
    let text = long
        .split_once("\n\n")
        .map_or(long.as_str(), |(_, rest)| rest);
    match text {
        "" => blocks.push(Block::Text(format!("{about}."))),
        text => blocks.extend(text.split("\n\n").map(|text| Block::Text(text.into()))),
    }
    if subcommands(target).next().is_some() {
        blocks.push(Block::Section("Commands".into()));
    }
    for sub in subcommands(target) {
        let name = sub.get_name().to_owned();
        let text = text_or_empty(sub.get_about()) + ".";
        if command.is_none() {
            blocks.push(Block::Item { name, text });
        } else {
            blocks.push(Block::Subsection(name));
            blocks.push(Block::Text(text));
            blocks.push(Block::Example(usage(sub)));
            let is_help =
                |item: &Block| matches!(item, Block::Item { name, .. } if name.ends_with("--help"));
            blocks.extend(items(sub, None).filter(|item| !is_help(item)));
        }
    }
    blocks.push(Block::Section("Options".into()));
    blocks.extend(items(target, None));
    let mut headings: Vec<&str> = Vec::new();
    for heading in target.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
            blocks.push(Block::Subsection(heading.to_owned()));
            blocks.extend(items(target, Some(heading)));
        }
    }
    let after_help = text_or_empty(target.get_after_long_help());
    blocks.extend(parse_after_help(&after_help));
    let mut pages: BTreeSet<String> = ["publisher", "subscriber"].map(String::from).into();
    pages.extend(subcommands(root).map(|command| page_name(root, Some(command))));
    pages.remove(&name);
    let others: Vec<String> = pages.iter().map(|name| format!("{name}(1)")).collect();
    blocks.push(Block::Section("See also".into()));
    blocks.push(Block::Text(others.join(", ")));
    blocks
}

fn text_or_empty(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn decapitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let lines = usage.lines().map(|line| {
        let line = line.strip_prefix("Usage: ").unwrap_or(line);
        line.strip_prefix("       ").unwrap_or(line).trim_end()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn items(command: &Command, heading: Option<&str>) -> impl Iterator<Item = Block> {
    let args = command.get_arguments();
    args.filter(move |arg| !arg.is_hide_set() && arg.get_help_heading() == heading)
        .map(|arg| Block::Item {
            name: flag_usage(arg),
            text: explanation(arg),
        })
}

/// `-t, --topic NAME`.
fn flag_usage(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let mut flag = names.join(", ");
    if arg.get_action().takes_values() {
        for name in arg.get_value_names().unwrap_or_default() {
            let space = if flag.is_empty() { "" } else { " " };
            let _ = write!(flag, "{space}{name}");
        }
        let several = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        flag.push_str(if several { "..." } else { "" });
    }
    flag
}

fn explanation(arg: &Arg) -> String {
    let help = text_or_empty(arg.get_long_help().or(arg.get_help()));
    let mut text = String::new();
    for paragraph in help.split("\n\n") {
        let _ = write!(text, "{}. ", paragraph.trim_end_matches('.'));
    }
    let values = arg.get_possible_values();
    if arg.get_action().takes_values() && !values.is_empty() {
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        let _ = write!(text, "One of {}. ", names.join(", "));
    }
    let defaults = arg.get_default_values();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let default = defaults[0].to_string_lossy();
        let _ = write!(text, "Default: {default}. ");
    }
    for alias in arg.get_visible_aliases().unwrap_or_default() {
        let _ = write!(text, "Another name is --{alias}. ");
    }
    text.trim_end().to_owned()
}

/// The sections of the text at the end of `--help`.
fn parse_after_help(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut ended = true;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        match (indent, blocks.last_mut()) {
            _ if content.is_empty() => {}
            (0, _) => blocks.push(Block::Section(content.trim_end_matches(':').into())),
            (4, Some(Block::Example(lines))) => {
                let _ = write!(lines, "\n{content}");
            }
            (4, _) => blocks.push(Block::Example(content.into())),
            (6.., Some(Block::Item { text, .. })) => {
                text.push_str(if text.is_empty() { "" } else { " " });
                text.push_str(content);
            }
            (6.., Some(Block::Example(lines))) => {
                let _ = write!(lines, "\n    {content}");
            }
            (6.., Some(Block::Text(name))) => {
                let name = std::mem::take(name);
                blocks.pop();
                let text = content.to_owned();
                blocks.push(Block::Item { name, text });
            }
            (_, Some(Block::Text(text))) if !ended => {
                text.push(' ');
                text.push_str(content);
            }
            _ => match content.split_once("  ") {
                Some((name, text)) => blocks.push(Block::Item {
                    name: name.into(),
                    text: text.trim_start().into(),
                }),
                None => blocks.push(Block::Text(content.into())),
            },
        }
        ended = content.is_empty();
    }
    blocks
}

fn roff_line(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    let is_request = escaped.starts_with(['.', '\'']);
    format!("{}{escaped}", if is_request { "\\&" } else { "" })
}

/// Text in lines that are not too long for a manual page's source.
fn wrap_roff(text: &str) -> String {
    const WIDTH: usize = 75;
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let word = roff_line(word);
        if !line.is_empty() && line.len() + word.len() >= WIDTH {
            out += &(std::mem::take(&mut line) + "\n");
        }
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(&word);
    }
    out + &line + "\n"
}

fn escape_markdown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "\\`*_<[|".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
