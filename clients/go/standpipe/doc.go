// Package standpipe is the client of Standpipe: fresh context for every model call, and every turn committed exactly
// once.
//
//	client, err := standpipe.Connect("unix:/run/standpipe/standpipe.sock")
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	session := client.Session("chat-42", standpipe.WithSubject("anna"))
//	bundle, err := session.Hydrate(ctx, "Where did we leave off?")
//	if err != nil {
//		return err
//	}
//	answer, err := model(ctx, bundle.ToOpenAI())
//	if err != nil {
//		return err
//	}
//	_, err = session.Commit(ctx, standpipe.Entries(standpipe.User(bundle.Query), standpipe.Assistant(answer)),
//		standpipe.WithBundle(bundle))
//
// [Session.Turn] does these three steps in one, and again when another commit came first.
//
// Every call takes a context. Its deadline, retries included, is the context's, and where that has none the client's
// (see [WithDeadline]). Every call fails with an [*Error]; [errors.Is] compares it with kinds such as [ErrConflict].
//
// A Client and its sessions may be used by several goroutines at once.
package standpipe
