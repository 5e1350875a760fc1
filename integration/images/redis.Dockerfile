FROM scratch
COPY . /
WORKDIR /data
ENV PATH=/usr/local/bin:/bin
EXPOSE 6379
CMD ["redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"]
