package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/parking"
)

// Client talks to a shop.
type Client struct {
	// URL is where the shop is, without a slash at the end.
	URL string
	// HTTP makes the requests. Default: http.DefaultClient.
	HTTP *http.Client
}

// Provider is what Headrace is told about shops: each change names the version that
// it is based on, so that it may be tried again.
func Provider() effects.Provider { return effects.Provider{Name: "shop", Conditional: true} }

// Get returns a purchase as it is now.
func (c Client) Get(ctx context.Context, id string) (Purchase, error) {
	request, err := c.request(ctx, http.MethodGet, id, nil)
	if err != nil {
		return Purchase{}, err
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	answer, err := client.Do(request)
	if err != nil {
		return Purchase{}, fmt.Errorf("shop: read purchase %s: %w", id, err)
	}
	defer answer.Body.Close() //nolint:errcheck // what was read stands
	if answer.StatusCode != http.StatusOK {
		err := fmt.Errorf("shop: read purchase %s: %s", id, answer.Status)
		if parking.ClassOfStatus(answer.StatusCode) == parking.Permanent {
			err = parking.AsPermanent(err)
		}
		return Purchase{}, err
	}
	var p Purchase
	if err := json.NewDecoder(answer.Body).Decode(&p); err != nil {
		return Purchase{}, fmt.Errorf("shop: read purchase %s: %w", id, err)
	}
	return p, nil
}

// Put is the call that changes a purchase if it still has this version. Its request is
// a Purchase, of which the quantity counts, and so is its response.
func (c Client) Put(id string, version int64) effects.Call {
	return effects.HTTP{Client: c.HTTP, Reason: reason}.Call(
		func(ctx context.Context, body []byte) (*http.Request, error) {
			request, err := c.request(ctx, http.MethodPut, id, body)
			if err == nil {
				request.Header.Set("If-Match", strconv.FormatInt(version, 10))
			}
			return request, err
		})
}

func (c Client) request(ctx context.Context, method, id string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.URL+"/purchases/"+id, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("shop: %w", err)
	}
	return request, nil
}

// reason is what the shop says of what it refuses: it says nothing of people.
func reason(r effects.Response) string { return string(r.Body) }
