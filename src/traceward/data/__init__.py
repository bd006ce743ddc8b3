"""What the expert gave us: reading, checking, splitting, grading and corrupting text. No models here."""
