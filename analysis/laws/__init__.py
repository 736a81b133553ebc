"""The functional forms of a scaling law."""
