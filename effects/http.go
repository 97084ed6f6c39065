package effects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// HTTP makes calls of HTTP requests. The zero value is usable.
//
// A status of 2xx is done, unless Check says otherwise. 429, and 503 with a
// Retry-After header, are NotDone. 400 and above is Refused, but for 408, 425 and
// 5xx, which leave it open like every failure on the way, and like redirections,
// which aren't followed. 409 and 412 are refused as a conflict.
type HTTP struct {
	// Client makes the requests. Default: http.DefaultClient's transport.
	Client *http.Client
	// Header carries the idempotency key. Default "Idempotency-Key".
	Header string
	// MaxBody is how much of an answer is read. Default, and at most,
	// store.MaxEffectContent.
	MaxBody int64
	// Check looks at answers of 2xx: some providers report failures in the body.
	// It returns nil, or an error marked by Refused or NotDone; one without mark
	// leaves open whether the call took effect.
	Check func(Response) error
	// Reason reads from an answer of 400 and above what the provider says of it, for the
	// error, which is stored, logged, and shown to people; 500 bytes of it are kept.
	// Default: nothing but the status, since an answer may say anything.
	Reason func(Response) string
	// NotDoneOn says which other statuses surely mean that nothing has happened.
	NotDoneOn func(code int) bool
}

// Call returns a call for Do. newRequest makes the request of its content.
func (h HTTP) Call(newRequest func(ctx context.Context, body []byte) (*http.Request, error)) Call {
	if h.Header == "" {
		h.Header = "Idempotency-Key"
	}
	if h.MaxBody <= 0 || h.MaxBody > store.MaxEffectContent {
		h.MaxBody = store.MaxEffectContent
	}
	client := http.Client{}
	if h.Client != nil {
		client = *h.Client
	}
	// A redirection would be another call.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return func(ctx context.Context, key string, body []byte) (Response, error) {
		request, err := newRequest(ctx, body)
		if err != nil {
			return Response{}, NotDone(fmt.Errorf("effects: make the request: %w", err))
		}
		request.Header.Set(h.Header, key)
		answer, err := client.Do(request)
		if err != nil {
			return Response{}, fmt.Errorf("effects: call: %w", err)
		}
		defer answer.Body.Close() //nolint:errcheck // what was read stands
		response, err := h.read(answer)
		if err != nil {
			return Response{}, err
		}
		return response, h.judge(answer, response)
	}
}

func (h HTTP) read(answer *http.Response) (Response, error) {
	response := Response{Code: answer.StatusCode, Meta: map[string]string{}}
	if kind := answer.Header.Get("Content-Type"); kind != "" {
		response.Meta["Content-Type"] = kind
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, h.MaxBody+1))
	if err != nil {
		return Response{}, fmt.Errorf("effects: read the answer (status %d): %w", answer.StatusCode, err)
	}
	if response.Truncated = int64(len(body)) > h.MaxBody; response.Truncated {
		body = body[:h.MaxBody]
	}
	response.Body = body
	return response, nil
}

// judge says what a status means. Errors don't show the body, which may hold
// anything, but for what Reason reads from it.
func (h HTTP) judge(answer *http.Response, response Response) error {
	code := response.Code
	if code >= 200 && code < 300 {
		if h.Check == nil {
			return nil
		}
		return h.Check(response)
	}
	err := errors.New("effects: the provider answered with status " + strconv.Itoa(code) + h.reason(response))
	wait, told := retryAfter(answer)
	class := parking.ClassOfStatus(code)
	switch {
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable && told,
		h.NotDoneOn != nil && h.NotDoneOn(code):
		return NotDone(parking.After(err, wait))
	case class == parking.Conflict:
		return Refused(parking.AsConflict(err))
	case class == parking.Permanent && code < http.StatusInternalServerError:
		return Refused(parking.AsPermanent(err))
	case told:
		return parking.After(err, wait)
	}
	return err
}

func (h HTTP) reason(response Response) string {
	const longest = 500
	if h.Reason == nil || response.Code < http.StatusBadRequest {
		return ""
	}
	reason := h.Reason(response)
	if reason == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(reason[:min(len(reason), longest)], "")
}

// retryAfter reads the header: seconds, or a date.
func retryAfter(answer *http.Response) (wait time.Duration, told bool) {
	text := answer.Header.Get("Retry-After")
	const longest = 24 * 60 * 60
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, longest)) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(at), 0), longest*time.Second), true
	}
	return 0, false
}
