"""The door, opened from inside."""

import pytest

from mad_lightning.commands import main


@pytest.fixture
def refusal(capsys):
    """Runs the door; gives what it refused, which fits on a screen."""

    def refused(*args):
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        assert left.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert err.startswith("error: ")
        assert "remedy: " in err
        assert "`" not in err.split("remedy: ")[1], "parameters are told in this door's words"
        assert len(err.splitlines()) < 20
        return err

    return refused
