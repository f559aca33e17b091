//! The nodes that a statement is brought to: those that are named, else where the server's name points.

use crate::cli::client::Client;
use crate::cli::failure::Failure;

/// A node by how it was named, and a client of it.
pub struct Node {
    /// As it is shown.
    pub name: String,
    /// Asks it.
    pub client: Client,
}

/// The clients of `named`, each `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
///
/// # Errors
/// Exit 2 when one is no address.
pub fn nodes(client: &Client, named: &[String]) -> Result<Vec<Node>, Failure> {
    if named.is_empty() {
        return Ok(vec![Node { name: client.origin().authority(), client: client.clone() }]);
    }
    let node = |name: &String| {
        let wrong = || Failure::usage(format!("`--node {name}`: write `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`"));
        let authority: http::uri::Authority = name.parse().map_err(|_| wrong())?;
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() || name.contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or_else(|| client.origin().port());
        Ok(Node { name: name.clone(), client: client.at_node(host, port) })
    };
    named.iter().map(node).collect()
}
