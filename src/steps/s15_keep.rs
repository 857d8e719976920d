//! Tidy up: the movers' Jobs go; the fence, the archive and the old data stay.

use super::context::Context;
use super::transfer::end_movers;
use crate::plan::Failure;
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    Ok(end_movers(cx).await?.unwrap_or(Advance::Done))
}
