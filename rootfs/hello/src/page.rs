//! The page: who serves it, in a few rows.

use std::{env, net::SocketAddr};

/// Variables that are shown where they are set, and what they are called.
const SHOWN: [(&str, &str); 4] =
    [("POD_NAMESPACE", "namespace"), ("NODE_NAME", "node"), ("APP_NAME", "app"), ("APP_ENV", "environment")];

/// The page as seen through `local`, the address the client reached.
pub fn render(local: SocketAddr) -> String {
    let greeting = escape(&env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned()));
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let address = env::var("POD_IP").unwrap_or_else(|_| local.ip().to_string());
    let mut rows = vec![("pod", host), ("address", address)];
    rows.extend(SHOWN.iter().filter_map(|(variable, name)| Some((*name, env::var(variable).ok()?))));
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value)))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{greeting}</title>\n<style>\
         body{{font:1.1em sans-serif;margin:4em auto;max-width:30em}}th{{text-align:left;padding-right:1em}}\
         </style>\n<h1>{greeting}</h1>\n<table>\n{rows}</table>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_who_serves_it() {
        let page = render("10.244.0.7:8080".parse().expect("an address"));
        assert!(page.contains("<td>10.244.0.7</td>") && page.contains("<h1>Hello</h1>"), "{page}");
        assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
