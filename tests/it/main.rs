
mod canonical;
mod hygiene;
