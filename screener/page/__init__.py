"""Report content to one self-contained HTML page, in English and Chinese."""
