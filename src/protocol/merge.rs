//! What every protocol's merge is made of: the replies of several nodes to the parts of one request.

/// One node's reply to its part of a request, or our refusal in its place.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The node's name.
    pub node: &'a str,
    /// One whole reply.
    pub reply: &'a [u8],
    /// For a split request: which of the client's keys this part asks for, from 0, in the order
    /// in which the node was asked.
    pub positions: &'a [u32],
}

/// How a merge came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// All parts are in it.
    Whole,
    /// Some keys have an error in their place, or are missing.
    Partly,
    /// It is one error.
    Failed,
}
