//! How long an endpoint asks to wait, in the headers of its reply.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::provider::refusal::duration;

/// No wish to wait is taken for longer than this, a hundred years: clocks can still add it. Who sends decides what is honoured.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// `retry-after-ms`, or `retry-after` in seconds or as a date; else, where `limited`, when the limits that the headers
/// speak of are open again: `x-ratelimit-reset-*` (OpenAI, Groq, Azure, OpenRouter) and `anthropic-ratelimit-*-reset`.
pub(super) fn wished(headers: &HeaderMap, limited: bool, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |value: f64| Duration::try_from_secs_f64(value).ok();
    let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    let said = match text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        Some(milliseconds) => seconds(milliseconds / 1000.0),
        None => text(RETRY_AFTER.as_str()).and_then(|value| match value.parse::<f64>() {
            Ok(value) => seconds(value),
            Err(_) => httpdate::parse_http_date(value).ok().map(until),
        }),
    };
    let wait = said.or_else(|| if limited { reset(headers, now) } else { None });
    wait.map(|wait| wait.min(LONGEST))
}

/// When the limits that nothing is left of are open again, all of them; where something is left of each, the first.
fn reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let (mut exhausted, mut first) = (None::<Duration>, None::<Duration>);
    for (name, value) in headers {
        let name = name.as_str();
        let (remaining, wait) = if let Some(what) = name.strip_prefix("x-ratelimit-reset") {
            (format!("x-ratelimit-remaining{what}"), value.to_str().ok().and_then(|value| span(value.trim(), now)))
        } else if let Some(what) =
            name.strip_prefix("anthropic-ratelimit-").and_then(|rest| rest.strip_suffix("-reset"))
        {
            (
                format!("anthropic-ratelimit-{what}-remaining"),
                value.to_str().ok().and_then(|value| span(value.trim(), now)),
            )
        } else {
            continue;
        };
        let Some(wait) = wait else { continue };
        let left = headers.get(remaining).and_then(|value| value.to_str().ok()?.trim().parse::<f64>().ok());
        if left.is_some_and(|left| left <= 0.0) {
            exhausted = exhausted.max(Some(wait));
        }
        first = Some(first.map_or(wait, |first| first.min(wait)));
    }
    exhausted.or(first)
}

/// A span (`6m0s`, `12`), or a moment: a date (RFC 3339), or seconds or milliseconds since 1970.
fn span(text: &str, now: SystemTime) -> Option<Duration> {
    let moment =
        |since: Duration| SystemTime::UNIX_EPOCH.checked_add(since)?.duration_since(now).ok().or(Some(Duration::ZERO));
    match text.parse::<f64>() {
        Ok(number) if number >= 1e12 => moment(Duration::try_from_secs_f64(number / 1000.0).ok()?),
        Ok(number) if number >= 1e9 => moment(Duration::try_from_secs_f64(number).ok()?),
        _ => duration(text).or_else(|| moment(rfc3339(text)?)),
    }
}

/// The time since 1970 of a date like `2025-01-31T12:00:05.5Z` or `...+01:00`.
fn rfc3339(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(|piece| piece.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let end = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(end);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (clock.next()?.parse::<i64>().ok()?, clock.next()?.parse::<i64>().ok()?);
    let second: f64 = clock.next()?.parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let sound = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second)
        && (-1440..=1440).contains(&offset);
    if !sound {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let minutes = days * 1440 + hour * 60 + minute - offset;
    Duration::try_from_secs_f64(minutes as f64 * 60.0 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(seconds)
    }

    fn wait(headers: &[(&'static str, &str)], now: SystemTime) -> Option<Duration> {
        let pair =
            |(name, value): &(&'static str, &str)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap());
        wished(&headers.iter().map(pair).collect(), true, now)
    }

    #[test]
    fn the_endpoints_wish_to_wait_is_read() {
        assert_eq!(wait(&[("retry-after", "2")], NOW), Some(Duration::from_secs(2)));
        assert_eq!(wait(&[("retry-after", "0.5")], NOW), Some(Duration::from_millis(500)));
        assert_eq!(wait(&[("retry-after-ms", "40")], NOW), Some(Duration::from_millis(40)));
        let date = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(wait(&date, at(784_111_770)), Some(Duration::from_secs(7)));
        assert_eq!(wait(&date, at(1_800_000_000)), Some(Duration::ZERO));
        assert_eq!(wait(&[("retry-after", "99999999999")], NOW), Some(LONGEST));
        assert_eq!((wait(&[("retry-after", "-1")], NOW), wait(&[("retry-after", "soon")], NOW)), (None, None));
        assert_eq!(wait(&[], NOW), None);
    }

    #[test]
    fn limits_say_when_they_are_open_again() {
        let openai = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "20ms"),
            ("x-ratelimit-remaining-tokens", "12"),
            ("x-ratelimit-reset-tokens", "2m3s"),
        ];
        assert_eq!(wait(&openai, NOW), Some(Duration::from_millis(20)), "the limit that is used up counts");
        let both = [openai[0], openai[1], ("x-ratelimit-remaining-tokens", "0"), openai[3]];
        assert_eq!(wait(&both, NOW), Some(Duration::from_secs(123)));
        assert_eq!(wait(&[openai[1], openai[3]], NOW), Some(Duration::from_millis(20)), "the first, where none says");
        let anthropic = [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2025-01-31T12:00:09Z"),
            ("anthropic-ratelimit-requests-remaining", "5"),
            ("anthropic-ratelimit-requests-reset", "2025-01-31T12:00:01Z"),
        ];
        assert_eq!(wait(&anthropic, at(1_738_324_800)), Some(Duration::from_secs(9)));
        assert_eq!(wait(&[("x-ratelimit-reset", "1738324803000")], at(1_738_324_800)), Some(Duration::from_secs(3)));
        assert_eq!(wait(&[("x-ratelimit-reset-tokens", "soon")], NOW), None);
        let told = [("retry-after", "1"), openai[1], openai[3]];
        assert_eq!(wait(&told, NOW), Some(Duration::from_secs(1)), "a plain wish comes first");
    }

    #[test]
    fn dates_are_read() {
        let since = |text: &str| rfc3339(text).map(|since| since.as_secs_f64());
        assert_eq!(since("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(since("2000-02-29T23:59:59.5Z"), Some(951_868_799.5));
        assert_eq!(since("2024-03-01T00:00:00+01:00"), Some(1_709_247_600.0));
        assert_eq!(since("2024-02-29T18:00:00-05:00"), Some(1_709_247_600.0));
        for text in [
            "",
            "2024",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00Z",
            "9e9-01-01T0:0:0Z",
            "-1-1-1T1:1:1Z",
        ] {
            assert_eq!(since(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "[0-9TZ:+. -]{0,30}", other in "\\PC{0,20}") {
            let _ = (span(&text, NOW), span(&other, NOW));
        }
    }
}
