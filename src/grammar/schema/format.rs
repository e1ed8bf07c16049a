//! What a `format` of a JSON schema asks of a string: those of the standard that can be written as a
//! regular expression. JSON Schema lets any other say nothing.

/// The strings of a format as a regular expression; `None` for one that says nothing.
pub(super) fn expression(name: &str) -> Option<String> {
    let expression = match name {
        "date" => date(),
        "time" => time(),
        "date-time" => format!("{}T{}", date(), time()),
        "duration" => duration(),
        "email" => email(),
        "hostname" => hostname(),
        "ipv4" => ipv4(),
        "ipv6" => ipv6(),
        "uri" => uri(),
        "uuid" => "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        _ => return None,
    };
    Some(format!("(?:{expression})"))
}

/// RFC 3339's full-date, of days that there were.
fn date() -> String {
    // Every year but 0000.
    let year = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})";
    let by_four = "(?:0[48]|[2468][048]|[13579][26])";
    let leap = format!("(?:[0-9]{{2}}{by_four}|{by_four}00)");
    let day = "(?:0[1-9]|1[0-9]|2[0-8])";
    format!(
        "(?:{year}-(?:(?:0[1-9]|1[0-2])-{day}|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|{leap}-02-29)"
    )
}

/// RFC 3339's full-time; leap seconds depend on the day, and are left out.
fn time() -> String {
    let minutes = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
    format!(r"{minutes}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{minutes})")
}

/// RFC 3339's appendix A.
fn duration() -> String {
    let time = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)";
    let date = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)";
    format!("P(?:{date}(?:{time})?|{time}|[0-9]+W)")
}

/// RFC 1123, each label of at most 63 characters, in at most four of them so that the whole is not too long.
fn hostname() -> String {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
    format!(r"{label}(?:\.{label}){{0,2}}")
}

/// RFC 5321's mailbox with a dot-string and a domain: at most 62 characters before the `@`, of the 64
/// that there may be, so that the whole has at most 254.
fn email() -> String {
    let text = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]";
    let one = format!("{text}{{1,62}}");
    let two = format!(r"{text}{{1,30}}\.{text}{{1,31}}");
    let three = format!(r"{text}{{1,20}}(?:\.{text}{{1,20}}){{2}}");
    format!("(?:{one}|{two}|{three})@{}", hostname())
}

fn ipv4() -> String {
    let byte = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    format!(r"{byte}(?:\.{byte}){{3}}")
}

/// RFC 4291's text forms without an IPv4 address in them.
fn ipv6() -> String {
    let group = "[0-9a-fA-F]{1,4}";
    let mut forms = vec![format!("(?:{group}:){{7}}{group}")];
    // `::` stands for two groups at least; before it are some, behind it some.
    for before in 0..=6_usize {
        let start = match before {
            0 => String::new(),
            1 => group.to_owned(),
            _ => format!("{group}(?::{group}){{{}}}", before - 1),
        };
        let end = match 6 - before {
            0 => String::new(),
            1 => format!("(?:{group})?"),
            most => format!("(?:{group}(?::{group}){{0,{}}})?", most - 1),
        };
        forms.push(format!("{start}::{end}"));
    }
    forms.join("|")
}

/// RFC 3986's URI, whose host is a name or an IPv4 address.
fn uri() -> String {
    let plain = r"[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2}";
    let name = r"(?:[a-zA-Z0-9._~!$&'()*+,;=-]|%[0-9a-fA-F]{2})";
    let user = r"(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|%[0-9a-fA-F]{2})*@)?";
    let segments = format!("(?:/(?:{plain})*)*");
    let with_authority = format!("//{user}{name}+(?::[0-9]{{1,5}})?{segments}");
    let without = format!("(?:/(?:{plain})+|(?:{plain})+){segments}");
    let more = format!(r"(?:{plain}|[/?])*");
    format!(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{with_authority}|{without})(?:\?{more})?(?:\#{more})?")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, right texts, wrong texts.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        (
            "date",
            &["2024-02-29", "2000-02-29", "1999-12-31", "0001-01-01", "2023-04-30"],
            &[
                "2023-02-29",
                "1900-02-29",
                "2023-04-31",
                "2023-13-01",
                "0000-01-01",
                "2023-02-30",
                "99-01-01",
            ],
        ),
        ("time", &["12:30:00Z", "23:59:59.123+02:00"], &["24:00:00Z", "12:30:00", "12:30Z"]),
        ("date-time", &["2024-02-29T00:00:00Z"], &["2024-02-30T00:00:00Z", "2024-02-29 00:00:00Z"]),
        (
            "duration",
            &["P1Y", "P1Y2M", "PT1H", "P3W", "P1DT5S"],
            &["P", "PT", "P1W1D", "1Y", "P1Y3D"],
        ),
        (
            "email",
            &["a@b.cd", "a.b+c@x-y.org"],
            &["a@", "@b", ".a@b", "a..b@c", "a b@c", "a@-b", "a.@b"],
        ),
        ("hostname", &["a", "a-b.c"], &["-a", "a-", "a..b", ""]),
        ("ipv4", &["0.0.0.0", "255.1.20.199"], &["256.0.0.0", "01.2.3.4", "1.2.3"]),
        (
            "ipv6",
            &[
                "::",
                "::1",
                "1::",
                "a:b:c:d:e:f:0:1",
                "1:2:3:4:5:6::",
                "::1:2:3:4:5:6",
                "1::8",
                "fe80::1:2",
            ],
            &[":", ":::", "1:2", "1:2:3:4:5:6:7:8:9", "12345::", "1::2::3", "1:2:3:4:5:6:7:8::"],
        ),
        (
            "uri",
            &["http://a.b/c?d=e#f", "mailto:a@b", "urn:x:y", "https://u@h:80/"],
            &["a", "//a", "http://a b", "1a:b", ":"],
        ),
        ("uuid", &["01234567-89ab-cdef-0123-456789ABCDEF"], &["0123456789abcdef0123456789abcdef"]),
    ];

    #[test]
    fn formats_are_those_of_their_standards() {
        for (name, right, wrong) in CASES {
            let whole = regex::Regex::new(&format!("^{}$", expression(name).unwrap())).unwrap();
            for text in *right {
                assert!(whole.is_match(text), "{name}: {text}");
            }
            for text in *wrong {
                assert!(!whole.is_match(text), "{name}: {text}");
            }
        }
        let email = regex::Regex::new(&format!("^{}$", expression("email").unwrap())).unwrap();
        let dotted = format!("{0}.{0}", "a".repeat(30));
        for local in ["a".repeat(62), dotted.clone(), format!("{0}.{0}.{0}", "a".repeat(20))] {
            assert!(email.is_match(&format!("{local}@b.cd")), "{local}");
        }
        for local in ["a".repeat(65), format!("{dotted}.aaaa")] {
            assert!(!email.is_match(&format!("{local}@b.cd")), "{local}");
        }
        for name in ["path", "password", "binary", "uuid4", "iri", "regex", ""] {
            assert_eq!(expression(name), None);
        }
    }
}
