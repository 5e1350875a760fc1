package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/tierlimit/tierlimit/scripts"
)

// Publish keeps a text of a replica under a topic, in place of its last one, for as long as keep.
// Other replicas read it with Published. topic must be a constant or come from Topic.
func (s *Store) Publish(ctx context.Context, topic, replica, text string, keep time.Duration) error {
	if _, err := s.run(ctx, scripts.Publish, []string{boardKey(topic)}, []any{replica, text, keep.Milliseconds()}); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

// Published returns the texts under a topic that have not expired, by replica.
func (s *Store) Published(ctx context.Context, topic string) (map[string]string, error) {
	reply, err := s.run(ctx, scripts.Published, []string{boardKey(topic)}, nil)
	if err != nil {
		return nil, fmt.Errorf("read what is published of %s: %w", topic, err)
	}
	list, ok := reply.([]any)
	if !ok || len(list)%2 != 0 {
		return nil, fmt.Errorf("read what is published of %s: %w", topic, errReply)
	}
	texts := make(map[string]string, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		replica, isName := list[i].(string)
		text, isText := list[i+1].(string)
		if !isName || !isText {
			return nil, fmt.Errorf("read what is published of %s: %w", topic, errReply)
		}
		texts[replica] = text
	}
	return texts, nil
}

// Topic returns the name of a topic about one subject. Its key is in the slot of the subject.
func (s *Store) Topic(name, subject string) string { return Key(subject) + ":" + name }

// boardKey returns the key of a topic.
func boardKey(topic string) string {
	if len(topic) > len(keyPrefix) && topic[:len(keyPrefix)] == keyPrefix {
		return topic // of one subject
	}
	return "tl:board:" + topic
}

const keyPrefix = "tl:{"
