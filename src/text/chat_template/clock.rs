//! `strftime_now`: the local time as Python's `datetime.now().strftime(…)` writes it.

use jiff::ZonedDateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};

/// Conversions of C's `strftime` in the C locale; others stand for themselves.
const CONVERSIONS: &str = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY";
/// The widest that a conversion is padded to.
const MAX_WIDTH: usize = 255;

/// `now` as `pattern` says. It carries no time zone, so that `%z` and `%Z` are empty.
///
/// # Errors
/// Where jiff cannot format the time, which no time of this era makes happen.
pub(super) fn strftime(pattern: &str, now: &ZonedDateTime) -> Result<String, jiff::Error> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let conversion = &rest[at..];
        let end = conversion[1..].find(|c: char| !"-_0^#123456789EO".contains(c));
        let kind = end.and_then(|end| conversion[1 + end..].chars().next().map(|c| (1 + end, c)));
        let Some((end, kind)) = kind else {
            text.push_str(conversion);
            return Ok(text);
        };
        let (conversion, after) = conversion.split_at(end + kind.len_utf8());
        text.push_str(&convert(conversion, kind, now)?);
        rest = after;
    }
    Ok(text + rest)
}

fn convert(conversion: &str, kind: char, now: &ZonedDateTime) -> Result<String, jiff::Error> {
    if conversion == "%f" {
        return Ok(format!("{:06}", now.subsec_nanosecond() / 1000));
    }
    match kind {
        '%' => return Ok("%".to_owned()),
        'z' | 'Z' => return Ok(String::new()),
        _ if CONVERSIONS.contains(kind) => {}
        _ => return Ok(conversion.to_owned()),
    }
    // The modifiers of other locales change nothing in this one.
    let plain = conversion.replace(['E', 'O'], "");
    let width: String = plain.chars().filter(char::is_ascii_digit).collect();
    let too_wide =
        width.trim_start_matches('0').parse::<usize>().is_ok_and(|width| width > MAX_WIDTH);
    let config = Config::new().custom(PosixCustom::new());
    let mut text = String::new();
    let plain = if too_wide { format!("%{kind}") } else { plain };
    BrokenDownTime::from(now).format_with_config(&config, &plain, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, pattern: &str) -> String {
        let now = jiff::Timestamp::new(second, 123_456_789).unwrap();
        strftime(pattern, &now.to_zoned_datetime(jiff::tz::TimeZone::UTC)).unwrap()
    }

    // The expected texts are what CPython's strftime prints for the same moment in UTC.
    #[test]
    fn agrees_with_python() {
        let all = "%Y %y %m %d %j %B %b %A %a %u %w %H %I %M %S %p %F %T %z%Z %%";
        for (second, expected) in [
            (
                0,
                "1970 70 01 01 001 January Jan Thursday Thu 4 4 00 12 00 00 AM 1970-01-01 00:00:00  %",
            ),
            (
                951_827_696,
                "2000 00 02 29 060 February Feb Tuesday Tue 2 2 12 12 34 56 PM 2000-02-29 12:34:56  %",
            ),
            (
                1_735_689_599,
                "2024 24 12 31 366 December Dec Tuesday Tue 2 2 23 11 59 59 PM 2024-12-31 23:59:59  %",
            ),
            (
                4_107_542_400,
                "2100 00 03 01 060 March Mar Monday Mon 1 1 00 12 00 00 AM 2100-03-01 00:00:00  %",
            ),
        ] {
            assert_eq!(at(second, all), expected);
        }
    }

    #[test]
    fn every_conversion_of_the_c_locale_is_known() {
        let second = 951_827_696;
        for (pattern, expected) in [
            ("%c|%x|%X", "Tue Feb 29 12:34:56 2000|02/29/00|12:34:56"),
            ("%D|%R|%r", "02/29/00|12:34|12:34:56 PM"),
            ("%f|%s", "123456|951827696"),
            ("%G %g %V %U %W", "2000 00 09 09 09"),
            ("%C %h %e %k %l %P", "20 Feb 29 12 12 pm"),
            ("%n%t|", "\n\t|"),
            ("%-d %-m %_m %-H %-I %-j %-y", "29 2  2 12 12 60 0"),
            ("%^a %^B %#p", "TUE FEBRUARY pm"),
            ("%Ey %Od %EY", "00 29 2000"),
            ("%5Y %010d", "02000 0000000029"),
            // What C does not know stands for itself.
            ("%Q %i %J %N %L %v %K", "%Q %i %J %N %L %v %K"),
            ("100% %", "100% %"),
            ("é %d %", "é 29 %"),
            ("", ""),
        ] {
            assert_eq!(at(second, pattern), expected, "{pattern}");
        }
    }
}
