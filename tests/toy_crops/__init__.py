"""08 Toy: cars and trees apart, as an eighth project that lies outside the package."""
