//! Answers that are not the server's: what a proxy says in its place.

/// What a proxy's answer means, if it is one: a page of HTML, or nothing at all with a status of proxies. Our server, and
/// others that diffusers' client works with, give reasons in JSON.
pub(crate) fn reason(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start();
    let is_page = content_type.is_some_and(|name| name.starts_with("text/html")) || text.starts_with('<');
    let is_silent = text.is_empty() && matches!(status, 408 | 413 | 502..=504);
    if !is_page && !is_silent {
        return None;
    }
    let title = title(text).map(|title| format!(" ({title:?})")).unwrap_or_default();
    let what = match status {
        413 => "which takes no body as large as this one: raise its limit (nginx: client_max_body_size)",
        408 | 504 => "which gave up waiting: raise its timeout (nginx: proxy_read_timeout)",
        502 | 503 => "which does not reach the server: is it running?",
        _ => "which is configured for other things: look at its log",
    };
    Some(format!("this is not the server's answer, but that of a proxy in front of it{title}, {what}"))
}

/// The title of a page, or its first heading.
fn title(page: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let between = |open: &str, close: &str| {
        let from = lower.find(open)? + open.len();
        let to = from + lower[from..].find(close)?;
        let title: Vec<_> = page[from..to].split_whitespace().collect();
        let title: String = title.join(" ").chars().filter(|c| !c.is_control()).take(60).collect();
        (!title.is_empty()).then_some(title)
    };
    between("<title>", "</title>").or_else(|| between("<h1>", "</h1>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_proxies_are_told_with_what_to_do() {
        let nginx = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n<center><h1>413 \
                     Request Entity Too Large</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n";
        let said = reason(413, Some("text/html"), nginx.as_bytes()).unwrap();
        assert_eq!(
            said,
            "this is not the server's answer, but that of a proxy in front of it (\"413 Request Entity Too Large\"), \
             which takes no body as large as this one: raise its limit (nginx: client_max_body_size)"
        );
        let haproxy =
            "<html><body><h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n</body></html>";
        let said = reason(504, Some("text/html"), haproxy.as_bytes()).unwrap();
        assert!(said.contains("\"504 Gateway Time-out\"") && said.contains("raise its timeout"), "{said}");
        // Caddy says nothing.
        let said = reason(502, None, b"").unwrap();
        assert!(said.contains("does not reach the server"), "{said}");
        let said =
            reason(403, Some("text/html; charset=utf-8"), b"<TITLE>\n Who are\x07\tyou?</TITLE>").unwrap();
        assert!(said.contains("(\"Who are you?\"), which is configured for other things"), "{said}");
    }

    #[test]
    fn what_servers_say_is_left_to_them() {
        assert_eq!(reason(413, Some("application/json"), b"{\"error\": \"too large\"}"), None);
        assert_eq!(reason(502, Some("text/plain"), b"Bad Gateway"), None);
        assert_eq!(reason(400, None, b""), None);
    }
}
