//! Durations and sizes as people write them: `1m30s`, `256MiB`.

use std::time::Duration;

/// The forms of a duration, for messages.
pub(super) const DURATIONS: &str = "a duration is whole numbers with the units d, h, m, s and ms, the larger first: \"250ms\", \"60s\", \"1m30s\", \"2h\", \"1d\"";

/// The forms of a size, for messages.
pub(super) const SIZES: &str = "a size is a whole number of bytes or one with a unit, KiB, MiB, GiB, TiB or kB, MB, GB, TB: \"4096\", \"1KiB\", \"10MB\", \"256MiB\"";

/// The longest duration: sums of durations and clock readings stay far from any overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Parses a duration; the error says what is wrong, and [`DURATIONS`] what is right.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = text;
    let mut millis: u64 = 0;
    let mut units = UNITS.as_slice();
    if text.is_empty() {
        return Err("an empty string is no duration".to_owned());
    }
    while !rest.is_empty() {
        let (number, unit, tail) = split(rest);
        let count = number.parse::<u64>().ok();
        let Some(count) = count.filter(|_| !unit.starts_with('.')) else {
            return Err(format!("`{text}` is no duration"));
        };
        if unit.is_empty() {
            return Err(format!("`{text}` lacks a unit; write \"{text}s\" for seconds"));
        }
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            let known = UNITS.iter().any(|(name, _)| *name == unit);
            let why = if known { "the larger unit comes first, each once" } else { "that is no unit" };
            return Err(format!("`{text}` is no duration: `{unit}`: {why}"));
        };
        millis = count
            .checked_mul(units[at].1)
            .and_then(|part| millis.checked_add(part))
            .filter(|millis| Duration::from_millis(*millis) <= LONGEST)
            .ok_or_else(|| format!("`{text}` is longer than ten years"))?;
        units = &units[at + 1..];
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// A number of seconds with a fraction, if whole milliseconds can say it.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    (seconds <= LONGEST && seconds.subsec_nanos().is_multiple_of(1_000_000)).then_some(seconds)
}

/// Parses a size in bytes; the error says what is wrong, and [`SIZES`] what is right.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit = unit.trim_start().to_ascii_lowercase();
    if number.is_empty() {
        return Err(format!("`{text}` is no size"));
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit.as_str() {
            "k" | "m" | "g" | "t" => {
                let unit = unit.to_uppercase();
                format!("`{text}` is ambiguous; write \"{number}{unit}iB\"")
            }
            _ => format!("`{text}` is no size"),
        });
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*scale))
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// A duration in the form in which it is configured.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if !millis.is_multiple_of(1_000) || millis == 0 {
        return format!("{millis}ms");
    }
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m")];
    match units.into_iter().find(|(scale, _)| millis.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", millis / scale),
        None => format!("{}s", millis / 1_000),
    }
}

/// A size in the form in which it is configured.
pub(super) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// What to write for a number without a unit, of the `sensible` sizes: few who write 256 mean so many bytes.
pub(super) fn size_meant(number: u64, sensible: impl Fn(u64) -> bool) -> Option<String> {
    let shown = show_size(number);
    let exact = number == 0 || number >= 1 << 20 || shown.ends_with('B');
    if exact && sensible(number) {
        return Some(format!("write \"{shown}\""));
    }
    let scaled = [(1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .filter(|(scale, _)| number < 1 << 20 && number.checked_mul(*scale).is_some_and(&sensible));
    let forms: Vec<String> = scaled.map(|(_, unit)| format!("\"{number}{unit}\"")).collect();
    let bytes = if sensible(number) { format!("; \"{number}\" would be bytes") } else { String::new() };
    (!forms.is_empty()).then(|| format!("write {}{bytes}", forms.join(" or ")))
}

/// Digits, then the unit after them, then the rest.
fn split(text: &str) -> (&str, &str, &str) {
    let (number, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    (number, &rest[..unit], &rest[unit..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, millis) in [
            ("60s", 60_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("1s5ms", 1005),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_and_named() {
        for (text, message) in [
            ("60", "`60` lacks a unit; write \"60s\" for seconds"),
            ("", "an empty string is no duration"),
            ("1.5s", "`1.5s` is no duration"),
            ("-1s", "`-1s` is no duration"),
            ("s", "`s` is no duration"),
            ("30s1m", "the larger unit comes first"),
            ("1s1s", "the larger unit comes first"),
            ("1w", "`w`: that is no unit"),
            ("1 s", "` s`: that is no unit"),
            ("99999999999999999999s", "is no duration"),
            ("4000d", "longer than ten years"),
            ("999999999999999999d", "longer than ten years"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("1KiB", 1024),
            ("10MB", 10_000_000),
            ("256MiB", 256 << 20),
            ("2 GiB", 2 << 30),
            ("5B", 5),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, message) in [
            ("", "is no size"),
            ("MiB", "is no size"),
            ("1.5MiB", "is no size"),
            ("-1", "is no size"),
            ("5m", "ambiguous; write \"5MiB\""),
            ("99999999999TiB", "too large"),
        ] {
            let error = size(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["250ms", "60s", "5m", "2h", "1d", "0s", "90s"] {
            let parsed = duration(text).unwrap();
            assert_eq!(duration(&show_duration(parsed)), Ok(parsed));
        }
        for bytes in [0, 1, 1024, 1025, 2 << 20, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
    }
}
