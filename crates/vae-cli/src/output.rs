//! Results on stdout and messages on stderr. A closed stream does not end the program, and a name with control characters
//! cannot forge lines or move the terminal's cursor.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;
use vae_base::files::missing_folder;
use vae_data::one_line;

/// The error that made stdout unusable.
static STDOUT_FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line of results, like `println!`. An error of stdout is reported at the end ([`stdout_error`]).
macro_rules! out {
    () => {
        $crate::output::print(format_args!("\n"))
    };
    ($($message:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($message)*)))
    };
}
pub(crate) use out;

/// Prints a line of messages, like `eprintln!`, with control characters escaped. Errors of stderr are ignored.
macro_rules! say {
    ($($message:tt)*) => {
        $crate::output::say_line(&format!($($message)*))
    };
}
pub(crate) use say;

/// The implementation of [`out!`], without the line end.
pub(crate) fn print(text: fmt::Arguments) {
    if STDOUT_FAILED.get().is_some() {
        return;
    }
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        let _ = STDOUT_FAILED.set(error); // The first one is the cause.
    }
}

/// Prints a line with the name of a file. As in `ls`, it is escaped on a terminal and unchanged for programs.
pub(crate) fn print_path(path: &Path) {
    match io::stdout().is_terminal() {
        true => out!("{}", one_line(&path.to_string_lossy())),
        false => out!("{}", path.display()),
    }
}

/// Refuses the name of a file to be written in a folder that is not there, before anything is computed for it.
///
/// # Errors
/// Names the file and the folder.
pub(crate) fn check_folder(file: &Path) -> anyhow::Result<()> {
    match missing_folder(file) {
        Some(folder) => anyhow::bail!(
            "{}: there is no folder {}",
            file.display(),
            folder.display()
        ),
        None => Ok(()),
    }
}

/// Flushes stdout, and returns the error that kept results from it. A reader that closed the pipe, as `head` does, is not an
/// error.
pub(crate) fn stdout_error() -> Option<io::Error> {
    let flushed = io::stdout().flush();
    let failed = STDOUT_FAILED.get().map(|error| (error.kind(), error));
    let error = match (failed, flushed) {
        // io::Error cannot be cloned.
        (Some((kind, error)), _) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(kind),
        },
        (None, Err(error)) => error,
        (None, Ok(())) => return None,
    };
    (error.kind() != ErrorKind::BrokenPipe).then_some(error)
}

/// An error with its causes. A cause that the message has already is left out.
pub(crate) fn whole(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !message.ends_with(&cause) {
            message += &format!(": {cause}");
        }
    }
    message
}

/// The implementation of [`say!`].
pub(crate) fn say_line(message: &str) {
    let line = one_line(message) + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The format of warnings: level and message in one line.
pub(crate) struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = *event.metadata().level();
        let color = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG | Level::TRACE => 34,
        };
        match writer.has_ansi_escapes() {
            true => write!(writer, "\x1b[{color}m{level:>5}\x1b[0m")?,
            false => write!(writer, "{level:>5}")?,
        }
        writeln!(writer, " {}", one_line(&message.0))
    }
}

/// The message of an event, then its other fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let refused = || io::Error::from(ErrorKind::PermissionDenied);
        let known = vae_model::ModelError::Io {
            path: "a".into(),
            source: refused(),
        };
        let error = anyhow::Error::from(known).context("reading");
        assert_eq!(whole(&error), "reading: a: permission denied");
        let error = Err::<(), _>(refused()).context("b").expect_err("an error");
        assert_eq!(whole(&error), "b: permission denied");
    }
}
