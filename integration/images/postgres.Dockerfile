FROM scratch
COPY . /
ENV PATH=@BIN@:/bin PGDATA=/var/lib/postgresql/data
EXPOSE 5432
ENTRYPOINT ["/bin/sh", "/entrypoint"]
CMD ["postgres"]
