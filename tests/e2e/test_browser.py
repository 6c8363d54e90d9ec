"""What the tests of the page and of videos take for granted of the browser."""

from service import serving


def test_it_shows_what_the_server_says_and_can_play_its_videos(browser, tmp_path):
    with serving([], tmp_path / "log") as service:
        page = browser.new_page()
        answer = page.goto(f"{service.url}/health")
        assert answer.status == 200
        assert page.inner_text("body") == "Ok"
        assert page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=avc1.42E01E')") == "probably"
        page.close()
