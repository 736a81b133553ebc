"""The paper's results, and a study beside them."""
