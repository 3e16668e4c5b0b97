//! Log lines on standard error, which level is shown, and how repetitions are kept down. Knows no service.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::mem;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use regex_lite::Regex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, reload};

/// Begins to log to standard error: what `AZIOT_LOG` says, else what [`set_level`] is told, [`DEFAULT`] at first.
pub(crate) fn init() {
    let directives = std::env::var("AZIOT_LOG").ok().map(|text| Directives::parse(&text));
    let fixed = directives.is_some();
    let (filter, handle) =
        reload::Layer::new(Shown(directives.unwrap_or_else(|| Directives::parse(DEFAULT))));
    let lines = tracing_subscriber::fmt::layer().event_format(Line).with_writer(io::stderr);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_ok() && !fixed {
        let set = Box::new(move |text: &str| drop(handle.reload(Shown(Directives::parse(text)))));
        drop(SET_LEVEL.set(set));
    }
}

/// Takes over the level from the configuration, in the syntax of `AZIOT_LOG`, or that there is none; the variable wins
/// where it is set.
pub(crate) fn set_level(text: Option<&str>) {
    if let Some(set) = SET_LEVEL.get() {
        set(text.unwrap_or(DEFAULT));
    }
}

/// Names on standard error what [`set_level`] would make nothing of.
pub(crate) fn check_level(text: &str) {
    drop(Directives::parse(text));
}

/// Writes a line at warning level, whatever level is shown: it is about that, or about what comes before it is known.
/// Where nobody can read it, it is lost.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let line = format!("{}{text}\n", Head(Level::WARN));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// What is shown if nobody says anything.
const DEFAULT: &str = "info";

type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Which records are shown: `level`, `target=level`, `target`, joined by commas, then optionally `/regex`
/// (spec service-common 9.2). A word that is neither a level nor a target of ours is most likely a level gone wrong, so
/// it changes nothing for the records of others.
#[derive(Debug, Default)]
struct Directives {
    default: Option<LevelFilter>,
    targets: Vec<(String, LevelFilter)>,
    /// Whether a target was named on purpose; then the others show errors only.
    is_selective: bool,
    pattern: Option<Regex>,
}

impl Directives {
    /// Reads what it can; the rest is told in a [`note`].
    fn parse(text: &str) -> Self {
        let (list, pattern) = text.split_once('/').map_or((text, None), |(list, regex)| (list, Some(regex)));
        let compiled = pattern.and_then(|regex| {
            let bad =
                |error| note(format_args!("the pattern {regex:?} of the log level is ignored: {error}"));
            Regex::new(regex).map_err(bad).ok()
        });
        let mut directives = Self { pattern: compiled, ..Self::default() };
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match (part.split_once('='), part.parse()) {
                (Some((target, level)), _) => match level.trim().parse() {
                    Ok(level) => {
                        directives.is_selective = true;
                        directives.targets.push((target.trim().to_owned(), level));
                    }
                    Err(_) => note(format_args!("the log level in {part:?} is ignored; use {LEVELS}")),
                },
                (None, Ok(level)) => directives.default = Some(level),
                (None, Err(_)) => {
                    match is_ours(part) || part.contains("::") {
                        true => directives.is_selective = true,
                        false => note(format_args!("{part:?} is no log level; use {LEVELS}")),
                    }
                    directives.targets.push((part.to_owned(), LevelFilter::TRACE));
                }
            }
        }
        directives
    }

    /// The most specific directive for `target` decides.
    fn level(&self, target: &str) -> LevelFilter {
        let matching = self.targets.iter().filter(|(prefix, _)| covers(prefix, target));
        let best = matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, level)| *level);
        let default = if self.is_selective { LevelFilter::ERROR } else { LevelFilter::INFO };
        best.or(self.default).unwrap_or(default)
    }
}

/// Whether records of `target` belong to `prefix`. Instructions for upstream say `aziot=…` for the daemons' own
/// records, whatever their modules are called here.
fn covers(prefix: &str, target: &str) -> bool {
    target.starts_with(prefix) || (prefix.starts_with("aziot") && is_ours(target))
}

fn is_ours(target: &str) -> bool {
    target.starts_with("aziot") || OWN_TARGETS.iter().any(|own| target.starts_with(own))
}

/// What a level may be.
const LEVELS: &str = "off, error, warn, info, debug or trace";

/// First parts of our crates' names.
const OWN_TARGETS: &[&str] =
    &["config_common", "http_common", "key", "cert", "identity", "tpm", "dps_client", "hub_client"];

struct Shown(Directives);

impl<S: Subscriber> Filter<S> for Shown {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.0.level(metadata.target())
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&text_of(event)))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let targets = self.0.targets.iter().map(|(_, level)| *level);
        targets.chain([self.0.level("")]).max()
    }
}

/// `<6>2024-03-01T07:05:09Z [INFO] - text` (spec service-common 9.1).
struct Line;

/// What stands before the text of a line that is written now.
struct Head(Level);

impl fmt::Display for Head {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (priority, label) = match self.0 {
            Level::ERROR => (3, "ERR!"),
            Level::WARN => (4, "WARN"),
            Level::INFO => (6, "INFO"),
            Level::DEBUG => (7, "DBUG"),
            Level::TRACE => (7, "TRCE"),
        };
        write!(out, "<{priority}>{} [{label}] - ", humantime::format_rfc3339_seconds(SystemTime::now()))
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        write!(out, "{}", Head(level))?;
        if level >= Level::DEBUG {
            write!(out, "[{}] ", event.metadata().target())?;
        }
        writeln!(out, "{}", text_of(event))
    }
}

/// Message and fields of a record, on one line: what a client sent must not forge lines.
fn text_of(event: &Event<'_>) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    text.message + &text.fields
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        let escaped = value.chars().flat_map(|c| {
            let quoted = c.is_control().then(|| c.escape_default());
            quoted.map_or_else(|| vec![c], Iterator::collect)
        });
        match field.name() {
            "message" => self.message.extend(escaped),
            name => {
                self.fields.push_str(&format!(" {name}="));
                self.fields.extend(escaped);
            }
        }
    }
}

/// Keeps repeated lines down: of one kind, the first is printed, then one a minute with the count of those left out. Of
/// kinds that differ in their cause alone, which a client may choose, [`CAUSES`] are told apart.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    places: Mutex<HashMap<(&'static str, u16, u32), Place>>,
}

/// What makes two lines the same: where, which status, whose request, and, where it matters, a digest of the cause.
pub(crate) type Kind = (&'static str, u16, u32, u64);

/// What was printed about one place, status and user.
#[derive(Debug, Default)]
struct Place {
    /// By cause: when it was printed, and how many lines were left out since.
    printed: Vec<(u64, Instant, u64)>,
    /// Lines left out with causes that are not among those.
    others: u64,
}

impl Repeats {
    /// A line at error level.
    pub(crate) fn error(&self, kind: Kind, line: fmt::Arguments<'_>) {
        if let Some(left_out) = self.due(kind, Instant::now()) {
            tracing::error!("{line}{left_out}");
        }
    }

    /// A line at warning level about the daemon itself.
    pub(crate) fn warn(&self, what: &'static str, line: fmt::Arguments<'_>) {
        if let Some(left_out) = self.due((what, 0, 0, 0), Instant::now()) {
            tracing::warn!("{line}{left_out}");
        }
    }

    /// A line at information level.
    pub(crate) fn info(&self, kind: Kind, line: fmt::Arguments<'_>) {
        if let Some(left_out) = self.due(kind, Instant::now()) {
            tracing::info!("{line}{left_out}");
        }
    }

    /// Whether a line of this kind is due, and the remark about those left out.
    fn due(&self, (what, status, uid, cause): Kind, now: Instant) -> Option<String> {
        let mut places = self.places.lock().expect("no panic while held");
        if places.len() > REMEMBERED {
            places.retain(|_, place| place.printed.iter().any(|(_, printed, _)| is_quiet(*printed, now)));
            if places.len() > REMEMBERED {
                places.clear();
            }
        }
        let left_out = places.entry((what, status, uid)).or_default().due(cause, now)?;
        let mut remark = String::new();
        if left_out > 0 {
            let _ = write!(remark, " (and {left_out} more like this since the last line)");
        }
        Some(remark)
    }
}

impl Place {
    /// Whether a line with this cause is due, and how many were left out before it.
    fn due(&mut self, cause: u64, now: Instant) -> Option<u64> {
        if let Some((_, printed, left_out)) = self.printed.iter_mut().find(|(known, ..)| *known == cause) {
            if is_quiet(*printed, now) {
                *left_out += 1;
                return None;
            }
            *printed = now;
            return Some(mem::take(left_out));
        }
        if self.printed.len() == CAUSES {
            let Some(over) = self.printed.iter().position(|(_, printed, _)| !is_quiet(*printed, now)) else {
                self.others += 1;
                return None;
            };
            self.others += self.printed.swap_remove(over).2;
        }
        self.printed.push((cause, now, 0));
        Some(mem::take(&mut self.others))
    }
}

/// Whether what was printed at `printed` is not printed again at `now`.
fn is_quiet(printed: Instant, now: Instant) -> bool {
    now.duration_since(printed) < QUIET
}

/// How long a repeated line stays unprinted.
const QUIET: Duration = Duration::from_secs(60);
/// So many causes a minute are told apart at one place.
const CAUSES: usize = 10;
/// Above so many places, old ones are forgotten.
const REMEMBERED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_decide_by_the_longest_target() {
        let check = |text: &str, target: &str, expected: LevelFilter| {
            assert_eq!(Directives::parse(text).level(target), expected, "{text} for {target}");
        };
        check("", "keyd", LevelFilter::INFO);
        check("DEBUG", "keyd", LevelFilter::DEBUG);
        check("aziot=debug", "http_common::server", LevelFilter::DEBUG);
        check("aziot=debug", "hyper::proto", LevelFilter::ERROR);
        check("warn,keyd::store=trace", "keyd::store::file", LevelFilter::TRACE);
        check("warn,keyd::store=trace", "keyd::handlers", LevelFilter::WARN);
        check("keyd", "keyd", LevelFilter::TRACE);
        check("off", "keyd", LevelFilter::OFF);
        check("info,keyd=nonsense", "keyd", LevelFilter::INFO);
        check("keyd", "hyper::proto", LevelFilter::ERROR);
        // A level gone wrong silences nothing.
        check("warning", "keyd", LevelFilter::INFO);
        check("loud,debug", "keyd", LevelFilter::DEBUG);
        check("hyper", "hyper::proto", LevelFilter::TRACE);
    }

    #[test]
    fn a_pattern_stands_behind_a_slash() {
        assert!(Directives::parse("debug/sign.*").pattern.is_some());
        assert_eq!(Directives::parse("debug/sign").level("keyd"), LevelFilter::DEBUG);
    }

    #[test]
    fn repeated_lines_are_counted() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let due = |after| repeats.due(("/sign", 500, 7, 0), start + Duration::from_secs(after));
        assert_eq!(due(0), Some(String::new()));
        assert_eq!((due(1), due(2)), (None, None));
        assert_eq!(due(61), Some(" (and 2 more like this since the last line)".to_owned()));
        assert!(repeats.due(("/sign", 500, 7, 1), start).is_some(), "another cause is another line");
    }

    #[test]
    fn causes_without_end_are_counted() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let due =
            |uid, cause, after| repeats.due(("/sign", 500, uid, cause), start + Duration::from_secs(after));
        let printed = (0..300).filter(|cause| due(7, *cause, 0).is_some()).count();
        assert_eq!(printed, CAUSES);
        assert!(due(8, 300, 0).is_some(), "others are not silenced");
        assert_eq!(due(7, 301, 61), Some(" (and 290 more like this since the last line)".to_owned()));
        assert_eq!(due(7, 302, 61), Some(String::new()));
    }
}
